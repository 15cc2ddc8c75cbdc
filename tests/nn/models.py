"""The small models that the laws run on."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jlab.nn import LayerConfig, RopeConfig, Transformer, TransformerConfig

VOCAB = 13
# Two layers that differ in everything: grouped heads against biases, parallel and a window.
FULL = LayerConfig(heads=4, kv_heads=2, head_dim=8, d_ff=24)
NEAR = LayerConfig(
    heads=2,
    kv_heads=2,
    head_dim=12,
    d_ff=20,
    gated=False,
    activation="gelu",
    parallel=True,
    qkv_bias=True,
    out_bias=True,
    mlp_bias=True,
    window=5,
    rope=RopeConfig(fraction=0.5),
)
CONFIG = TransformerConfig(vocab_size=VOCAB, d_model=16, pattern=(FULL, NEAR), repeats=2)


# Compiles in half the time; the laws hold for any order of sums.
@functools.partial(
    jax.jit, static_argnums=0, compiler_options={"xla_backend_optimization_level": 0}
)
def run(config, params, tokens, positions=None, segment_ids=None, cache=None):
    """One forward pass; compiled once per config and shape."""
    return Transformer(config).apply({"params": params}, tokens, positions, segment_ids, cache)


@functools.cache
def random_params(config: TransformerConfig = CONFIG, seed: int = 0) -> dict:
    """Parameters of ordinary size in every leaf, biases and norms included: zeros hide mistakes."""
    tokens = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    shapes = jax.eval_shape(Transformer(config).init, jax.random.key(0), tokens)["params"]
    rng = np.random.default_rng(seed)

    def leaf(path, shape):
        value = rng.normal(size=shape.shape).astype(np.float32)
        if path[-1].key == "kernel":
            return jnp.asarray(1.3 * value / np.sqrt(shape.shape[-2]))
        return jnp.asarray(0.3 * value + (path[-1].key == "scale"))

    return jax.tree_util.tree_map_with_path(leaf, shapes)


def random_tokens(rows: int, length: int, seed: int = 0) -> np.ndarray:
    """Token ids."""
    return np.random.default_rng(seed).integers(0, VOCAB, (rows, length)).astype(np.int32)
