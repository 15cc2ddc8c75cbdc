"""One decoder transformer for all of jlab; every model family is a value of its config.

A config is a `pattern` of layers run `repeats` times. Parameters lie under `blocks/<i>` with a
leading axis `repeats` and the depth is one scan. `get_layer`, `set_layer`, `restack` and
`apply_layer` serve methods that work on single layers; a `Cache` carries the tokens read so far,
and `fork` continues one prompt in several ways while storing it once. LoRA adapters are variables
beside the parameters (`jlab.nn.lora`).

>>> import jax, jax.numpy as jnp
>>> layer = LayerConfig(heads=2, kv_heads=1, head_dim=8, d_ff=32)
>>> config = TransformerConfig(vocab_size=11, d_model=16, pattern=(layer,), repeats=2)
>>> model, tokens = Transformer(config), jnp.array([[1, 2, 3, 4]])
>>> variables = model.init(jax.random.key(0), tokens)
>>> model.apply(variables, tokens).logits.shape
(1, 4, 11)
>>> read = model.apply(variables, tokens[:, :3], cache=init_cache(config, batch=1, length=8))
>>> twice = fork(read.cache, 2)  # two continuations of the same three tokens
>>> model.apply(variables, jnp.array([[4], [5]]), cache=twice).logits.shape
(2, 1, 11)
>>> count_params(config)
5040
"""

from jlab.nn.cache import Cache, fork, init_cache, take
from jlab.nn.config import (
    FeatureMapConfig,
    LayerConfig,
    LoRASpec,
    PrecisionConfig,
    RopeConfig,
    TransferConfig,
    TransformerConfig,
)
from jlab.nn.count import count_params, flops_per_token
from jlab.nn.families import llama, mistral, neox, qwen2
from jlab.nn.lora import lora_init, lora_merge, lora_unmerge
from jlab.nn.losses import cross_entropy
from jlab.nn.surgery import (
    apply_layer,
    apply_stack,
    get_layer,
    join_stacks,
    layer_inputs,
    restack,
    set_layer,
    take_stack,
    unstacked_names,
)
from jlab.nn.transformer import Output, Transformer

__all__ = [
    "Cache",
    "FeatureMapConfig",
    "LayerConfig",
    "LoRASpec",
    "Output",
    "PrecisionConfig",
    "RopeConfig",
    "TransferConfig",
    "Transformer",
    "TransformerConfig",
    "apply_layer",
    "apply_stack",
    "count_params",
    "cross_entropy",
    "flops_per_token",
    "fork",
    "get_layer",
    "init_cache",
    "join_stacks",
    "layer_inputs",
    "llama",
    "lora_init",
    "lora_merge",
    "lora_unmerge",
    "mistral",
    "neox",
    "qwen2",
    "restack",
    "set_layer",
    "take",
    "take_stack",
    "unstacked_names",
]
