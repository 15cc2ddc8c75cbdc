"""A linearized model of two layers that is small to compile, and a batch of text for it."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from jlab.data.batch import Batch
from jlab.linearize import linearize
from jlab.nn import FeatureMapConfig, LayerConfig, LoRASpec, TransformerConfig, lora_init
from tests.nn.models import random_params

LAYER = LayerConfig(heads=2, kv_heads=1, head_dim=8, d_ff=16)
SOFTMAX = TransformerConfig(vocab_size=13, d_model=16, pattern=(LAYER,), repeats=2)
MAPS = FeatureMapConfig(features=3)
GROUPS, WINDOW, ROWS, LENGTH = 2, 3, 4, 12


@functools.cache
def model(kind: str = "hybrid_sliding"):
    """Config and parameters of ordinary size, maps and window factors included."""
    window = WINDOW if kind.startswith("hybrid") else None
    config, _ = linearize(SOFTMAX, random_params(SOFTMAX), kind, window=window, feature_map=MAPS)
    return config, random_params(config)


@functools.cache
def adapters(config: TransformerConfig) -> dict:
    """Adapters that do something: new ones are zero on their way out."""
    lora = lora_init(config, model()[1], jax.random.key(0))
    noise = jax.tree.map(lambda x: jax.random.normal(jax.random.key(x.size), x.shape), lora)
    return jax.tree.map(lambda x, n: x + 0.1 * n, lora, noise)


def adapted(config: TransformerConfig, **fields) -> TransformerConfig:
    """The model with adapters of rank 2."""
    return replace(config, lora=LoRASpec(rank=2, **fields))


def batch(seed: int = 0, rows: int = ROWS) -> Batch:
    """Rows of two documents each, the second from another place on in each row."""
    rng = np.random.default_rng(seed)
    text = rng.integers(0, 13, (rows, LENGTH + 1)).astype(np.int32)
    starts = rng.integers(3, LENGTH - 3, (rows, 1))
    place = np.tile(np.arange(LENGTH), (rows, 1))
    second = place >= starts
    made = Batch(
        tokens=text[:, :-1],
        targets=text[:, 1:],
        mask=(place + 1 != starts).astype(np.float32),
        segment_ids=second.astype(np.int32),
        positions=(place - starts * second).astype(np.int32),
        group=np.arange(rows, dtype=np.int32) % GROUPS,
        ids=np.arange(rows, dtype=np.int32),
    )
    return jax.tree.map(jnp.asarray, made)
