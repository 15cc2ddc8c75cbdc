"""One optimiser step: by hand on a scalar, in slices, guarded, compiled once."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jlab.training import Aux, OptimConfig, init_state, jit_step, make_optimizer, make_train_step
from jlab.training.state import Mean
from tests.mixing.worlds import jit_in_haste
from tests.training.runs import assert_same_bits


def squares(params, extras, batch, key):
    """Weighted mean of (w - x)^2; `batch` holds x and weights; `extras` counts the calls."""
    x, weight = batch
    mean = (weight * (params["kernel"] - x) ** 2).sum() / weight.sum()
    low = Mean(jnp.where(x < 2, x, 0.0).sum(), (x < 2).sum())
    metrics = {"low": low, "x": x.mean(), "drawn": jax.random.uniform(key)}
    return mean, Aux(metrics, {"n": extras["n"] + 1}, weight.sum())


def start(value, optimizer):
    return init_state(
        {"kernel": jnp.float32(value)}, optimizer, jax.random.key(0), {"n": jnp.int32(0)}
    )


def batch(*values, weights=None):
    x = jnp.array(values, jnp.float32)
    return x, jnp.ones_like(x) if weights is None else jnp.array(weights, jnp.float32)


def test_one_step_by_hand():
    """AdamW from w = 1 on x = 3 and x = 5, all of it worked out on paper.

    loss = (4 + 16) / 2 = 10; g = 2 (1 - 4) = -6, clipped to -3; m / (1 - b1) = g and
    v / (1 - b2) = g^2, so the direction is g / (|g| + eps) = -3 / (3 + 1) with eps = 1; decay adds
    0.5 w = 0.5; the rate of the first of 10 steps is the peak 0.1 (a warm-up of one step):
    w = 1 - 0.1 (-0.75 + 0.5).
    """
    config = OptimConfig(
        learning_rate=0.1, schedule="constant", weight_decay=0.5, eps=1.0, clip_norm=3.0
    )
    optimizer = make_optimizer(config, steps=10)
    step = jit_in_haste(make_train_step(squares, optimizer))
    state, metrics = step(start(1.0, optimizer), batch(3, 5))
    assert float(metrics["loss"]) == 10
    assert float(metrics["grad_norm"]) == 6  # before clipping
    assert bool(metrics["finite"])
    assert float(state.params["kernel"]) == pytest.approx(1.025, rel=1e-6)  # float32
    assert int(state.step) == 1
    assert int(state.extras["n"]) == 1


def test_the_key_changes_with_the_step_and_nothing_else():
    optimizer = optax.sgd(0.0)
    step = make_train_step(squares, optimizer)
    first, one = step(start(1.0, optimizer), batch(3))
    _, again = step(start(2.0, optimizer), batch(5))
    second, two = step(first, batch(3))
    assert float(one["drawn"]) == float(again["drawn"])
    assert float(one["drawn"]) != float(two["drawn"])
    assert_same_bits(second.key, first.key)


def safe(params, extras, given_batch, key):
    """`squares` without 0 / 0 where a slice has no weight at all."""
    x, weight = given_batch
    filled = jnp.where(weight.sum() > 0, weight, 1.0)
    value, aux = squares(params, extras, (x, filled), key)
    return value, aux._replace(weight=weight.sum())


SLICED = {n: jit_in_haste(make_train_step(safe, optax.sgd(0.1), n)) for n in (1, 2, 3, 6)}


@given(
    st.lists(st.floats(-4, 4, width=32), min_size=6, max_size=6),
    st.lists(st.sampled_from([0.0, 1.0, 2.0]), min_size=6, max_size=6).filter(any),
    st.sampled_from([2, 3, 6]),
)
def test_slices_add_up_to_the_whole_batch(values, weights, accumulate):
    """Whatever the weights: a slice counts by the weight of what its loss is a mean over."""
    state, given_batch = start(1.0, optax.sgd(0.1)), batch(*values, weights=weights)
    whole, expected = SLICED[1](state, given_batch)
    parts, got = SLICED[accumulate](state, given_batch)
    # 1e-5: float32 sums of six terms up to 50 in another order.
    close = {"rtol": 1e-5, "atol": 1e-5}
    np.testing.assert_allclose(parts.params["kernel"], whole.params["kernel"], **close)
    for name in ("loss", "grad_norm", "low"):
        np.testing.assert_allclose(got[name], expected[name], err_msg=name, **close)
    assert int(parts.extras["n"]) == accumulate  # the slices come one after the other


def test_slices_of_equal_weight_average_other_metrics():
    optimizer = optax.sgd(0.1)
    step = make_train_step(squares, optimizer, accumulate=2)
    _, metrics = step(start(1.0, optimizer), batch(1, 2, 3, 6))
    assert float(metrics["x"]) == 3.0
    assert float(metrics["low"]) == 1.0  # one number below 2, in one of the slices


def test_a_mean_of_no_rows_is_nan():
    optimizer = optax.sgd(0.1)
    for accumulate in (1, 2):
        step = make_train_step(squares, optimizer, accumulate)
        assert np.isnan(step(start(1.0, optimizer), batch(3, 4))[1]["low"])


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("harm", ["x", "weight", "parameter", "infinite"])
def test_what_is_not_finite_changes_nothing_but_the_step_number(harm, accumulate):
    config = OptimConfig(learning_rate=0.1)
    optimizer = make_optimizer(config, steps=10)
    step = jit_in_haste(make_train_step(squares, optimizer, accumulate))
    state, _ = step(start(1.0, optimizer), batch(3, 5))  # moments are not zero
    x, weight = batch(3, 5)
    if harm == "x":
        x = x.at[1].set(jnp.nan)
    elif harm == "weight":
        weight = weight.at[0].set(jnp.nan)
    elif harm == "infinite":
        x = x.at[0].set(3e38)  # its square overflows float32
    else:
        state = state._replace(params={"kernel": jnp.float32(jnp.nan)})
    after, metrics = step(state, (x, weight))
    assert not bool(metrics["finite"])
    assert int(after.step) == int(state.step) + 1
    assert_same_bits(after._replace(step=state.step), state)
    assert after.params["kernel"].dtype == jnp.float32


def test_a_gradient_alone_can_be_bad():
    """sqrt has a finite value and an infinite slope at zero."""

    def loss(params, extras, batch, key):
        return jnp.sqrt(params["kernel"] * batch).sum(), Aux({}, extras)

    optimizer = optax.sgd(0.1)
    step = make_train_step(loss, optimizer)
    after, metrics = step(start(0.0, optimizer), jnp.ones(1))
    assert float(metrics["loss"]) == 0
    assert not bool(metrics["finite"])
    assert float(after.params["kernel"]) == 0


def test_a_second_step_compiles_nothing_and_eats_its_state():
    traces = []

    def counted(*inputs):
        traces.append(1)
        return squares(*inputs)

    optimizer = make_optimizer(OptimConfig(), steps=10)
    first = start(1.0, optimizer)
    step = jit_step(make_train_step(counted, optimizer), first)
    second, _ = step(first, batch(3, 5))
    step(second, batch(4, 6))
    assert len(traces) == 1
    assert first.params["kernel"].is_deleted()  # donated: parameters are there once, not twice
