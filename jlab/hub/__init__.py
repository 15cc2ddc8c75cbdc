"""Released checkpoints in and out: Hugging Face folders and hub ids as config and parameters.

Llama, Mistral, Qwen2 and GPT-NeoX (Pythia), from safetensors only: nothing in a checkpoint can run
code. Tensors are read one at a time straight into their type and place; what a model has that the
transformer lacks is refused by name. The tokenizer of the same model is
`jlab.data.folder_tokenizer(local_folder(source))`. LoRA adapters go in and out as `peft` has them,
linearized and packed quantised models in folders of our own; what the LoLCATs release has trained
comes in.

>>> import tempfile, jax, jax.numpy as jnp
>>> from jlab.nn import Transformer, llama
>>> config = llama(d_model=16, layers=2, heads=2, d_ff=32, vocab_size=11)
>>> tokens = jnp.array([[1, 2, 3]])
>>> params = Transformer(config).init(jax.random.key(0), tokens)["params"]
>>> with tempfile.TemporaryDirectory() as folder:
...     save_hf(folder, config, params)  # `transformers` reads it too
...     same, loaded = load_hf(folder)
>>> same == config, jax.tree.all(jax.tree.map(jnp.array_equal, params, loaded))
(True, True)
"""

from jlab.hub.chat import ChatTemplate, load_chat_template, stop_ids
from jlab.hub.load import load_hf
from jlab.hub.lolcats import load_lolcats
from jlab.hub.packed import load_packed, save_packed
from jlab.hub.peft import load_adapter
from jlab.hub.peft_save import save_adapter
from jlab.hub.read_config import read_config
from jlab.hub.save import save_hf
from jlab.hub.source import local_folder
from jlab.hub.write_config import write_config

__all__ = [
    "ChatTemplate",
    "load_adapter",
    "load_chat_template",
    "load_hf",
    "load_lolcats",
    "load_packed",
    "local_folder",
    "read_config",
    "save_adapter",
    "save_hf",
    "save_packed",
    "stop_ids",
    "write_config",
]
