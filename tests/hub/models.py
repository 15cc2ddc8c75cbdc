"""Small models of every family, with parameters of ordinary size, and their folders."""

import json
from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from jlab.hub import save_hf
from jlab.hub.tensors import param_shapes
from jlab.nn import RopeConfig, TransformerConfig, llama, mistral, neox, qwen2

SIZES = {"d_model": 16, "layers": 1, "heads": 4, "d_ff": 24, "vocab_size": 13}
TWO = {**SIZES, "layers": 2}
LLAMA3 = RopeConfig(theta=5e5, scaling="llama3", factor=8.0, original_length=32)
LLAMA3_FIELDS = {
    "factor": 8.0,
    "original_max_position_embeddings": 32,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
}


def biased(config: TransformerConfig, **fields: bool) -> TransformerConfig:
    """A config with other fields in every layer."""
    return replace(config, pattern=tuple(replace(layer, **fields) for layer in config.pattern))


CONFIGS = {
    "llama": llama(**TWO, kv_heads=2),  # one stack of two layers
    "tied": llama(**SIZES, kv_heads=2, tied=True, rope=LLAMA3),
    "wide heads": llama(**SIZES, kv_heads=1, head_dim=6),
    "llama with biases": biased(llama(**SIZES), qkv_bias=True, out_bias=True, mlp_bias=True),
    "linear": llama(**SIZES, rope=RopeConfig(scaling="linear", factor=4.0)),
    "dynamic": llama(**SIZES, rope=RopeConfig(scaling="dynamic", factor=2.0, original_length=8)),
    "mistral": mistral(**SIZES, kv_heads=2, window=3),
    "qwen2": qwen2(**SIZES, kv_heads=2, tied=True),
    "qwen2 with windows": qwen2(**TWO, window=3, window_from=1),  # a pattern of two layers
    "gpt_neox": neox(**TWO, rope=RopeConfig(fraction=0.5)),
    "gpt_neox in series": neox(
        **SIZES, parallel=False, rope=RopeConfig(fraction=0.5), activation="gelu_tanh"
    ),
}


def random_params(config: TransformerConfig, dtype: str = "float32", seed: int = 0) -> dict:
    """Biases and norms included: zeros and ones would hide mistakes."""
    rng = np.random.default_rng(seed)

    def leaf(path, shape):
        value = rng.normal(size=shape.shape)
        if path[-1] == "kernel":
            value *= 1.3 / np.sqrt(shape.shape[-2])
        return jnp.asarray(0.3 * value + (path[-1] == "scale"), dtype)

    shapes = param_shapes(config)
    return unflatten_dict({path: leaf(path, shape) for path, shape in shapes.items()})


def folder_of(path: Path, name: str = "llama", dtype: str = "float32", **save: object) -> Path:
    """A folder with one of `CONFIGS`."""
    save_hf(path, CONFIGS[name], random_params(CONFIGS[name], dtype), **save)
    return path


def edit(path: Path, **fields: object) -> None:
    """Change fields of a JSON file; a value of `...` takes the field out."""
    values = json.loads(path.read_text()) | fields
    path.write_text(json.dumps({k: v for k, v in values.items() if v is not ...}))


def same_bits(ours: dict, theirs: dict) -> bool:
    """Equal leaf by leaf in shape, type and every bit."""
    ours, theirs = flatten_dict(ours), flatten_dict(theirs)
    assert set(ours) == set(theirs)
    return all(
        a.dtype == theirs[path].dtype
        and np.asarray(a).tobytes() == np.asarray(theirs[path]).tobytes()
        for path, a in ours.items()
    )
