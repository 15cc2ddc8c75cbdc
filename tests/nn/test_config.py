"""Refusals of impossible shapes: one line that names field, value and what is allowed."""

from dataclasses import replace

import pytest

from jlab.nn import LayerConfig, RopeConfig, TransformerConfig

LAYER, MODEL = LayerConfig(), TransformerConfig()
REFUSED = [
    (lambda: RopeConfig(theta=0), "rope.theta must be positive; got 0"),
    (lambda: RopeConfig(fraction=1.5), "rope.fraction must be in (0, 1]; got 1.5"),
    (
        lambda: RopeConfig(scaling="yarn"),
        "rope.scaling must be one of none, linear, dynamic, llama3; got 'yarn'",
    ),
    (lambda: RopeConfig(factor=0.5), "rope.factor must be at least 1; got 0.5"),
    (
        lambda: RopeConfig(low_freq_factor=4.0),
        "rope.high_freq_factor must be above rope.low_freq_factor = 4.0; got 4.0",
    ),
    (lambda: replace(LAYER, heads=0), "layer.heads must be positive; got 0"),
    (lambda: replace(LAYER, kv_heads=3), "layer.kv_heads must be a divisor of heads = 8; got 3"),
    (
        lambda: replace(LAYER, activation="tanh"),
        "layer.activation must be one of silu, gelu, gelu_tanh, relu; got 'tanh'",
    ),
    (lambda: replace(LAYER, window=0), "layer.window must be at least 1, or None; got 0"),
    (
        lambda: replace(LAYER, head_dim=7),
        "rope.fraction must be such that layer.head_dim * rope.fraction is even; got 1.0 (7 of 7)",
    ),
    (
        lambda: replace(LAYER, head_dim=2, rope=RopeConfig(scaling="dynamic")),
        "rope.scaling must be other than dynamic with 2 rotated dimensions; got 'dynamic'",
    ),
    (lambda: replace(MODEL, vocab_size=0), "model.vocab_size must be at least 1, or None; got 0"),
    (lambda: replace(MODEL, d_model=-1), "model.d_model must be positive; got -1"),
    (lambda: replace(MODEL, repeats=0), "model.repeats must be positive; got 0"),
    (lambda: replace(MODEL, pattern=()), "model.pattern must be at least one layer; got ()"),
    (lambda: replace(MODEL, norm="batch"), "model.norm must be one of rms, layer; got 'batch'"),
    (
        lambda: replace(MODEL, dtype="int8"),
        "model.dtype must be one of float32, bfloat16, float64; got 'int8'",
    ),
    (
        lambda: replace(MODEL, implementation="cudnn"),
        "model.implementation must be one of auto, mosaic_gpu, triton, xla; got 'cudnn'",
    ),
]


@pytest.mark.parametrize(("build", "message"), REFUSED, ids=[m for _, m in REFUSED])
def test_an_impossible_value_is_refused_by_name(build, message):
    with pytest.raises(ValueError) as refusal:  # noqa: PT011 (the whole text is compared below)
        build()
    assert str(refusal.value) == message


def test_configs_are_hashable_values():
    assert hash(TransformerConfig()) == hash(MODEL)
    assert TransformerConfig() == MODEL
    assert replace(MODEL, pattern=(LAYER, LAYER), repeats=3).layers == 6
