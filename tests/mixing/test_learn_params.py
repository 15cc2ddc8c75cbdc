"""LearnParams: what the probes measure is what is there."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from jlab.mixing import estimate_matrix
from jlab.mixing.learn_params import (
    normalized,
    probe_order,
    realised_weights,
    smoothed_one_hots,
)
from tests.mixing.strategies import in_float64, problems

estimate = jax.jit(estimate_matrix, static_argnames="diagonal")
whole = jax.jit(normalized)
SWEEPS = 3


def linear_losses(A, weights, order):
    """Losses that fall by exactly (A p)_i in a probe on proportions p."""
    falls = np.stack([A @ weights[j] for j in order])
    return 10 - np.concatenate([np.zeros((1, len(A))), np.cumsum(falls, axis=0)])


@given(problems(), st.floats(0.6, 1.0))
@in_float64
def test_a_planted_matrix_is_recovered_exactly(problem, one_hot_factor):
    _, A, order = problem
    weights = np.asarray(smoothed_one_hots(len(A), one_hot_factor))
    order = np.tile(order, SWEEPS)
    found = estimate(linear_losses(A, weights, order), order, weights)
    # Losses of up to 100 are rounded by 1e-14; the solve amplifies by at most 1/(0.6 - 0.4) = 5.
    np.testing.assert_allclose(found, A, rtol=0, atol=1e-11)


@given(problems(), st.integers(0, 2**32 - 1))
@in_float64
def test_realised_proportions_that_differ_from_the_requested_are_undone_too(problem, seed):
    _, A, order = problem
    m = len(A)
    counts = np.random.default_rng(seed).integers(0, 4, (m, m)) + 12 * np.eye(m, dtype=int)
    weights = np.asarray(realised_weights(jnp.asarray(counts), smoothed_one_hots(m, 0.6)))
    found = estimate(linear_losses(A, weights, order), order, weights)
    np.testing.assert_allclose(found, A, rtol=0, atol=1e-11)  # as above


@given(problems())
@in_float64
def test_relabelling_groups_permutes_the_matrix(problem):
    p, A, order = problem
    m = len(p)
    weights = np.asarray(smoothed_one_hots(m, 0.7)) * 0.9 + 0.1 * p[None, :]
    losses, probed = linear_losses(A, weights, np.arange(m)), np.arange(m)
    relabelled = estimate(losses[:, order], np.argsort(order)[probed], weights[order][:, order])
    np.testing.assert_allclose(
        relabelled, estimate(losses, probed, weights)[order][:, order], rtol=0, atol=1e-11
    )


@in_float64
def test_two_groups_by_hand():
    # f = 3/4. Probing group 0 moves the losses by (-0.7, -0.3), group 1 by (-0.5, -0.5).
    # Row 0: 3/4 a + 1/4 b = 0.7, 1/4 a + 3/4 b = 0.5 -> a = 0.8, b = 0.4. Row 1: 0.3, 0.5 -> 0.2,
    # 0.6.
    losses = jnp.array([[3.0, 3.0], [2.3, 2.7], [1.8, 2.2]])
    found = estimate_matrix(losses, jnp.array([0, 1]), smoothed_one_hots(2, 0.75))
    np.testing.assert_allclose(found, [[0.8, 0.4], [0.2, 0.6]], atol=1e-14)
    # Diagonal: 0.7 / (3/4) and 0.5 / (3/4).
    alone = estimate_matrix(losses, jnp.array([0, 1]), smoothed_one_hots(2, 0.75), diagonal=True)
    np.testing.assert_allclose(alone, np.diag([0.7, 0.5]) / 0.75, atol=1e-14)


@in_float64
def test_probes_that_cannot_tell_groups_apart_credit_them_equally():
    losses = jnp.array([[3.0, 3.0], [2.5, 2.9], [2.0, 2.8]])
    found = estimate_matrix(losses, jnp.array([0, 1]), jnp.full((2, 2), 0.5))
    # Every probe, on (1/2, 1/2), moves the losses by (-0.5, -0.1): each group gets that benefit.
    np.testing.assert_allclose(found, [[0.5, 0.5], [0.1, 0.1]], atol=1e-14)


def test_a_group_never_drawn_in_its_own_probe_has_no_diagonal_benefit():
    losses, weights = jnp.array([[3.0, 3.0], [2.5, 2.9]]), jnp.array([[0.0, 1.0], [0.0, 1.0]])
    assert not estimate_matrix(losses, jnp.array([0]), weights, diagonal=True).any()


def test_windows_that_were_not_counted_count_as_requested():
    requested = smoothed_one_hots(2, 0.75)
    weights = realised_weights(jnp.array([[0, 0], [1, 1]]), requested)
    np.testing.assert_array_equal(weights, [[0.75, 0.25], [0.5, 0.5]])


def test_each_sweep_probes_every_group_once_and_sweeps_differ():
    order = np.asarray(probe_order(jax.random.key(0), 4, 8)).reshape(8, 4)
    np.testing.assert_array_equal(np.sort(order, axis=1), np.tile(np.arange(4), (8, 1)))
    assert len(np.unique(order, axis=0)) > 1


@given(problems())
@in_float64
def test_a_normalised_matrix_is_not_negative_and_sums_to_one(problem):
    A = whole(problem[1])
    assert A.min() >= 0
    np.testing.assert_allclose(A.sum(), 1, rtol=1e-12)


@in_float64
def test_normalisation_by_hand():
    # The least entry -1 becomes 0: (3, 1; 0, 4), which sums to 8.
    np.testing.assert_allclose(whole(jnp.array([[2.0, 0], [-1, 3]])) * 8, [[3, 1], [0, 4]])
    for equal in (0.0, 0.5, -0.5):  # no difference, no preference; all zero must not give 0/0
        np.testing.assert_allclose(whole(jnp.full((2, 2), equal)), np.full((2, 2), 0.25))
