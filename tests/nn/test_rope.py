"""Rotary embedding: rotations that depend on distance, and the scalings of `transformers`."""

import jax.numpy as jnp
import numpy as np
import pytest

from jlab.nn import RopeConfig
from jlab.nn.rope import rates, rope_table, rotate

SCALINGS = {
    "none": RopeConfig(theta=500.0),
    "linear": RopeConfig(scaling="linear", factor=4.0),
    "dynamic": RopeConfig(scaling="dynamic", factor=2.0, original_length=16),
    "llama3": RopeConfig(theta=5e5, scaling="llama3", factor=8.0, original_length=32),
}


def ours(rope, length, rotated=16):
    return np.asarray(rates(rope, rotated, jnp.arange(length)[None], jnp.float32))[0, 0]


@pytest.mark.parametrize("length", [9, 40])
@pytest.mark.parametrize("name", SCALINGS)
def test_rates_are_those_of_transformers(name, length):
    pytest.importorskip("torch")
    released = pytest.importorskip("transformers.modeling_rope_utils")
    from transformers import LlamaConfig

    rope = SCALINGS[name]
    settings = {"rope_type": name, "rope_theta": rope.theta, "factor": rope.factor}
    if name == "llama3":
        settings |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
        settings |= {"original_max_position_embeddings": rope.original_length}
    if name == "none":
        theirs = 1 / rope.theta ** (np.arange(0, 16, 2) / 16)
    else:
        config = LlamaConfig(
            hidden_size=64,
            num_attention_heads=4,
            max_position_embeddings=rope.original_length,
            rope_parameters=settings,
        )
        theirs, _ = released.ROPE_INIT_FUNCTIONS[name](config, "cpu", seq_len=length)
    # theirs is rounded to float32 at every step
    np.testing.assert_allclose(ours(rope, length), np.asarray(theirs), rtol=1e-6)


def test_dynamic_scaling_by_hand():
    """D = 4, factor 2, trained on 16, row of 24: theta * (2 * 24 / 16 - 1)^2 = 4 theta."""
    stretched = ours(SCALINGS["dynamic"], 24, rotated=4)
    np.testing.assert_allclose(stretched, [1, (4 * 10000) ** -0.5], rtol=1e-6)
    np.testing.assert_allclose(ours(SCALINGS["dynamic"], 16, rotated=4), [1, 0.01], rtol=1e-6)


def test_products_depend_on_the_distance_only():
    rng = np.random.default_rng(0)
    q, k = (jnp.asarray(rng.normal(size=(1, 1, 1, 8)), jnp.float32) for _ in range(2))

    def product(i, j):
        x, y = (
            rotate(x, *rope_table(SCALINGS["none"], 8, jnp.array([[at]]), jnp.float32))
            for x, at in ((q, i), (k, j))
        )
        return float((x * y).sum())

    assert product(3, 1) == pytest.approx(product(9, 7), abs=1e-5)  # products of about 1
    assert product(3, 1) != pytest.approx(product(3, 2), abs=1e-2)


def test_a_quarter_turn_by_hand():
    """Two of four dimensions turn, by 90 degrees: (1, 2, 3, 4) -> (-2, 1, 3, 4)."""
    cos, sin = jnp.zeros((1, 1, 1)), jnp.ones((1, 1, 1))
    turned = rotate(jnp.array([[[[1.0, 2.0, 3.0, 4.0]]]]), cos, sin)
    np.testing.assert_array_equal(turned[0, 0, 0], [-2, 1, 3, 4])
