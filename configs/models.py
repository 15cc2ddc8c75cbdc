"""Named model sizes. A `vocab_size` of None is the tokenizer's, filled in by the recipe."""

from jlab.nn.config import RopeConfig
from jlab.nn.families import llama, neox

MODELS = {
    # For tests: a forward pass takes milliseconds. 0.09 M parameters besides the embedding.
    "tiny": llama(d_model=64, layers=2, heads=4, kv_heads=2, d_ff=176, tied=True),
    # 9.4 M besides the embedding: 11 M with a vocabulary of 4096.
    "10M": llama(d_model=384, layers=6, heads=12, kv_heads=4, d_ff=1024, tied=True),
    # Pythia-160M (arXiv 2304.01373, Table 1): 162,322,944 parameters.
    "160M": neox(d_model=768, layers=12, heads=12, d_ff=3072, vocab_size=50304),
    # Llama 3.2 1B: 1,235,814,400 parameters.
    "1B": llama(
        d_model=2048,
        layers=16,
        heads=32,
        kv_heads=8,
        d_ff=8192,
        vocab_size=128256,
        tied=True,
        rope=RopeConfig(theta=500000.0, scaling="llama3", factor=32.0),
    ),
}
