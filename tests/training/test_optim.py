"""Schedules and optimisers: their values at the corners, what decays, what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jlab.nn import Transformer, llama, neox
from jlab.training import OptimConfig, make_optimizer, make_schedule
from tests.mixing.worlds import jit_in_haste

STEPS = 100


def rates(config, steps=STEPS):
    schedule = make_schedule(config, steps)
    return np.array([float(schedule(step)) for step in range(steps + 1)])


@pytest.mark.parametrize("shape", ["cosine", "linear"])
def test_a_schedule_rises_from_above_zero_to_its_peak_and_falls_to_its_end(shape):
    """Warm-up of 4 steps to 0.8: 0.2, 0.4, 0.6, 0.8; then down to 0.08 at step 100."""
    config = OptimConfig(schedule=shape, learning_rate=0.8, end_learning_rate=0.08, warmup_steps=4)
    rate = rates(config)
    # rtol=1e-6 here and below: the schedule counts in float32.
    np.testing.assert_allclose(rate[:5], [0.2, 0.4, 0.6, 0.8, 0.8], rtol=1e-6)
    assert rate[STEPS] == pytest.approx(0.08, rel=1e-6)
    assert rate[52] == pytest.approx(0.44, rel=1e-6)  # half way from 4 to 100: the mean of the ends
    assert (np.diff(rate[4:]) < 0).all()
    quarter = {"linear": 0.62, "cosine": 0.44 + 0.36 * np.cos(np.pi / 4)}[shape]
    assert rate[28] == pytest.approx(quarter, rel=1e-6)


def test_wsd_is_stable_and_then_falls_linearly_to_its_end():
    config = OptimConfig(
        learning_rate=1.0,
        end_learning_rate=0.2,
        warmup_steps=0,
        schedule="wsd",
        decay_fraction=0.25,
    )
    rates = [float(make_schedule(config, 100)(step)) for step in range(101)]
    np.testing.assert_allclose(rates[:76], 1.0)
    np.testing.assert_allclose(rates[75:], np.linspace(1, 0.2, 26), rtol=1e-5)


def test_a_constant_schedule_stays_at_its_peak():
    rate = rates(OptimConfig(schedule="constant", learning_rate=0.5, warmup_steps=2))
    np.testing.assert_allclose(rate, [0.25] + [0.5] * STEPS, rtol=1e-6)


@given(
    warmup=st.integers(0, 1000),
    steps=st.integers(1, 60),
    shape=st.sampled_from(["cosine", "linear", "constant"]),
)
def test_every_step_trains_at_no_more_than_the_peak(warmup, steps, shape):
    config = OptimConfig(
        schedule=shape, learning_rate=0.5, end_learning_rate=0.1, warmup_steps=warmup
    )
    rate = rates(config, steps)
    assert (rate[:steps] > 0).all()
    assert rate.max() <= 0.5 * (1 + 1e-6)
    # A warm-up is a tenth of the run at most, and ends at the peak.
    assert rate[min(warmup, max(1, steps // 10))] == pytest.approx(0.5, rel=1e-6)


def test_only_matrices_decay():
    """Two gradients of zero: whatever moves, moved by decay. Both families, biases and norms."""
    optimizer = make_optimizer(OptimConfig(weight_decay=0.1, schedule="constant"), STEPS)
    for config in (
        llama(d_model=8, layers=2, heads=2, d_ff=8, vocab_size=16),
        neox(d_model=8, layers=2, heads=1, d_ff=8, vocab_size=16),
    ):
        shapes = jax.eval_shape(
            Transformer(config).init, jax.random.key(0), jnp.zeros((1, 2), jnp.int32)
        )["params"]
        params = jax.tree.map(lambda x: np.ones(x.shape, np.float32), shapes)
        zeros = jax.tree.map(np.zeros_like, params)
        updates, _ = jit_in_haste(optimizer.update)(zeros, optimizer.init(params), params)
        moved = {
            jax.tree_util.keystr(path, simple=True, separator="/"): bool(np.asarray(x).any())
            for path, x in jax.tree_util.tree_leaves_with_path(updates)
        }
        matrices = {name for name in moved if name.endswith(("kernel", "embedding"))}
        assert {name for name, moves in moved.items() if moves} == matrices
        assert any("norm" in name for name in moved.keys() - matrices)
        assert len(matrices) >= 6


def test_the_gradient_is_clipped_by_its_global_norm():
    """(3, 4) has norm 5; clipped to 1 it is (0.6, 0.8). With 0 nothing is clipped."""
    gradient = {"a": jnp.array([3.0]), "b": jnp.array([4.0])}
    fields = {"name": "sgd", "b1": 0.0, "weight_decay": 0.0, "schedule": "constant"}
    for clip, factor in ((1.0, 0.2), (10.0, 1.0), (0.0, 1.0)):
        config = OptimConfig(learning_rate=1.0, warmup_steps=0, clip_norm=clip, **fields)
        optimizer = make_optimizer(config, STEPS)
        updates, _ = optimizer.update(gradient, optimizer.init(gradient), gradient)
        for name, value in gradient.items():
            np.testing.assert_allclose(updates[name], -factor * value, rtol=1e-6)  # float32


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sgd", [-2.0, -3.0]),  # trace of 2, then 2 + 0.5 * 2
        ("lion", [-1.0, -1.0]),  # the sign
        ("adamw", [-1.0, -1.0]),  # g / |g|, the moments being unbiased
    ],
)
def test_each_rule_by_hand_on_a_constant_gradient(name, expected):
    config = OptimConfig(
        name=name,
        learning_rate=1.0,
        b1=0.5,
        weight_decay=0.0,
        warmup_steps=0,
        schedule="constant",
        clip_norm=0.0,
    )
    optimizer = make_optimizer(config, STEPS)
    params = {"kernel": jnp.zeros(())}
    state = optimizer.init(params)
    for update in expected:
        updates, state = optimizer.update({"kernel": jnp.float32(2.0)}, state, params)
        assert float(updates["kernel"]) == pytest.approx(update, rel=1e-6)  # float32


def test_adapters_and_maps_decay_as_matrices_do():
    optimizer = make_optimizer(OptimConfig(weight_decay=0.1, schedule="constant"), STEPS)
    ones = np.ones((1, 2, 2), np.float32)
    params = {"lora": {"q_proj": {"a": ones, "b": ones}}, "maps": {"map": ones, "bias": ones}}
    zeros = jax.tree.map(np.zeros_like, params)
    updates, _ = jit_in_haste(optimizer.update)(zeros, optimizer.init(params), params)
    moved = jax.tree.map(lambda x: bool(np.asarray(x).any()), updates)
    assert moved["lora"]["q_proj"] == {"a": True, "b": True}
    assert moved["maps"] == {"map": True, "bias": False}


def test_weight_decay_is_scaled_by_the_rate_and_not_by_the_moments():
    config = OptimConfig(learning_rate=0.1, weight_decay=0.5, warmup_steps=0, schedule="constant")
    optimizer = make_optimizer(config, STEPS)
    params = {"kernel": jnp.float32(2.0)}
    updates, _ = optimizer.update({"kernel": jnp.float32(0.0)}, optimizer.init(params), params)
    assert float(optax.apply_updates(params, updates)["kernel"]) == pytest.approx(1.9, rel=1e-6)


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("name", "adam", "one of adamw, lion, sgd"),
        ("schedule", "cosin", "one of cosine, linear, constant, wsd, warmup_cosine"),
        ("learning_rate", 0.0, "> 0 and finite"),
        ("learning_rate", float("inf"), "> 0 and finite"),
        ("learning_rate", float("nan"), "> 0 and finite"),
        ("eps", -1e-8, "> 0 and finite"),
        ("end_learning_rate", -0.1, ">= 0 and finite"),
        ("warmup_steps", -1, ">= 0 and finite"),
        ("weight_decay", float("nan"), ">= 0 and finite"),
        ("clip_norm", -1.0, ">= 0 and finite"),
        ("b1", 1.0, "in [0, 1)"),
        ("b2", -0.1, "in [0, 1)"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(field, value, allowed):
    with pytest.raises(ValueError, match="must be") as refused:
        OptimConfig(**{field: value})
    assert str(refused.value) == f"optimizer.{field} must be {allowed}; got {value}"
