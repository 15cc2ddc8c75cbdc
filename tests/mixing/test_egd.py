"""Exponentiated gradient descent and the projection into bounds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jlab.mixing import exponentiated_gradient
from jlab.mixing.egd import keep_within, log_step
from tests.mixing.strategies import GROUPS, in_float64, problems, simplexes

step = jax.jit(exponentiated_gradient)
bounded = jax.jit(lambda p, floor, cap: jnp.exp(keep_within(jnp.log(p), floor, cap)))
CLOSE = {"rtol": 1e-12, "atol": 1e-14}  # float64: a handful of roundings


@given(problems())
@in_float64
def test_the_step_stays_on_the_simplex(problem):
    p, A, _ = problem
    after = step(p, A, 0.7)
    assert after.min() >= 0
    np.testing.assert_allclose(after.sum(), 1, **CLOSE)


@given(problems())
@in_float64
def test_relabelling_groups_permutes_the_proportions(problem):
    p, A, order = problem
    relabelled = step(p[order], A[order][:, order], 0.7)
    np.testing.assert_allclose(relabelled, step(p, A, 0.7)[order], **CLOSE)


@given(problems())
@in_float64
def test_equal_benefits_leave_the_proportions(problem):
    p, A, _ = problem
    equal = np.repeat(A[:, :1], len(p), axis=1)
    np.testing.assert_allclose(step(p, equal, 0.7), p, **CLOSE)
    np.testing.assert_allclose(step(p, np.zeros_like(A), 0.7), p, **CLOSE)


@given(problems())
@in_float64
def test_a_vanishing_learning_rate_is_the_identity(problem):
    p, A, _ = problem
    np.testing.assert_allclose(step(p, A, 0.0), p, **CLOSE)
    # First order in eta: |log p'/p| <= 2 eta max|gain|, and the gains here are at most 4 x 3.
    np.testing.assert_allclose(step(p, A, 1e-9), p, rtol=3e-8)


def test_a_share_that_underflows_comes_back():
    """Log-proportions keep what exp(-1000) loses, in float32 too."""
    log_p = jnp.log(jnp.array([0.5, 0.5]))
    there = log_step(log_p, jnp.array([1000.0, 0.0]), 1.0)
    assert jnp.exp(there)[1] == 0
    back = log_step(there, jnp.array([-1000.0, 0.0]), 1.0)
    np.testing.assert_allclose(jnp.exp(back), [0.5, 0.5], atol=1e-3)  # 1000 has 6e-5 of rounding
    assert jnp.isfinite(log_step(log_p, jnp.array([1e30, -1e30]), 1.0)).all()


def test_a_share_of_exactly_zero_stays_zero():
    after = exponentiated_gradient(jnp.array([0.0, 0.25, 0.75]), jnp.ones((1, 3)), 1.0)
    np.testing.assert_allclose(after, [0, 0.25, 0.75], rtol=1e-6)  # float32


def test_two_groups_by_hand():
    # p = (1/2, 1/2), column sums (ln 2, 0), eta = 1: weights (1, 1/2) after scaling -> (2/3, 1/3)
    A = jnp.array([[np.log(2) + 1, 4.0], [-1.0, -4.0]])
    after = exponentiated_gradient(jnp.array([0.5, 0.5]), A, 1.0)
    np.testing.assert_allclose(after, [2 / 3, 1 / 3], rtol=1e-6)  # float32


@given(st.data())
@in_float64
def test_bounds_hold_and_free_groups_keep_their_ratios(data):
    m = data.draw(st.sampled_from(GROUPS))
    p = data.draw(simplexes(m))
    floor, cap = data.draw(st.floats(0, 1 / m)), data.draw(st.floats(1 / m, 1))
    after = np.asarray(bounded(p, floor, cap))
    np.testing.assert_allclose(after.sum(), 1, rtol=1e-9)  # bounds near 1/m leave little to scale
    assert after.min() >= floor * (1 - 1e-12)
    assert after.max() <= cap * (1 + 1e-12)
    free = (after > floor * (1 + 1e-6)) & (after < cap * (1 - 1e-6))
    ratios = (after / p)[free]
    np.testing.assert_allclose(ratios, ratios[:1].repeat(len(ratios)), rtol=1e-6)
    # Optimality: nothing at the floor wants to grow by more, nothing at the cap to shrink by less.
    if free.any():
        assert np.all((after / p)[after <= floor * (1 + 1e-9)] >= ratios[0] * (1 - 1e-6))
        assert np.all((after / p)[after >= cap * (1 - 1e-9)] <= ratios[0] * (1 + 1e-6))


@pytest.mark.parametrize(
    ("p", "floor", "cap", "expected"),
    [
        ((0.6, 0.3, 0.1), 0.0, 1.0, (0.6, 0.3, 0.1)),  # nothing to do
        ((0.9, 0.08, 0.02), 0.0, 0.5, (0.5, 0.4, 0.1)),  # 0.5 left, shared 4 : 1
        ((0.6, 0.38, 0.02), 0.2, 1.0, (0.8 * 60 / 98, 0.8 * 38 / 98, 0.2)),  # 0.8 left, 60 : 38
        ((0.9, 0.08, 0.02), 0.2, 0.5, (0.5, 0.3, 0.2)),  # both bind: the last takes what is left
        ((0.9, 0.08, 0.02), 1 / 3, 1 / 3, (1 / 3, 1 / 3, 1 / 3)),  # bounds leave one point
    ],
)
def test_bounds_by_hand(p, floor, cap, expected):
    np.testing.assert_allclose(bounded(np.array(p), floor, cap), expected, rtol=1e-5)  # float32
