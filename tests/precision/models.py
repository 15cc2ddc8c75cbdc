"""Tiny models, calibration text for them, and what their linear maps read."""

import jax
import numpy as np

from jlab.data import Batch
from jlab.nn import LayerConfig, RopeConfig, TransformerConfig, llama, neox
from tests.hub.models import CONFIGS

LENGTH, ROWS = 12, 6
LLAMA = CONFIGS["llama"]  # two layers that one scan runs, two heads of keys for four of queries
PATTERN = TransformerConfig(
    vocab_size=13,
    d_model=16,
    pattern=(
        LayerConfig(heads=4, kv_heads=4, head_dim=4, d_ff=24, qkv_bias=True, mlp_bias=True),
        LayerConfig(heads=2, kv_heads=2, head_dim=8, d_ff=16, gated=False, activation="relu"),
    ),
    repeats=1,
    tied=True,
)
NEOX = neox(d_model=16, layers=1, heads=4, d_ff=24, vocab_size=13, rope=RopeConfig(fraction=0.5))
MODELS = {"grouped queries": LLAMA, "a pattern with biases": PATTERN, "parallel": NEOX}
PLAIN = llama(d_model=16, layers=1, heads=4, d_ff=24, vocab_size=13)


def text(seed: int = 0, rows: int = ROWS, vocab: int = 13) -> Batch:
    """Random tokens in two documents a row."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(vocab, size=(rows, LENGTH + 1), dtype=np.int32)
    half = LENGTH // 2
    return Batch(
        tokens=tokens[:, :-1],
        targets=tokens[:, 1:],
        mask=np.ones((rows, LENGTH), np.float32),
        segment_ids=np.tile(np.repeat(np.arange(2, dtype=np.int32), half), (rows, 1)),
        positions=np.tile(np.arange(half, dtype=np.int32), (rows, 2)),
        group=np.zeros(rows, np.int32),
        ids=np.arange(rows, dtype=np.int32),
    )


def with_padding(batch: Batch) -> Batch:
    """The same with a row that fills it up, and tokens of padding at the end of all."""

    def longer(x: np.ndarray, value: int) -> np.ndarray:
        more = [(0, 1), (0, 2)] if x.ndim == 2 else [(0, 1)]
        return np.pad(x, more, constant_values=value)

    padded = jax.tree.map(lambda x: longer(x, 5), batch)
    return padded._replace(ids=longer(batch.ids, -1), segment_ids=_padded(batch.segment_ids))


def _padded(segments: np.ndarray) -> np.ndarray:
    longer = np.pad(segments, [(0, 0), (0, 2)], constant_values=-1)
    return np.concatenate([longer, longer[:1]])
