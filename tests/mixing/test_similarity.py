"""Similarity of two matrices by their column sums."""

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats
from hypothesis import given

from jlab.mixing import matrix_similarity
from jlab.mixing.similarity import spearman
from tests.mixing.strategies import in_float64, problems

similar = jax.jit(matrix_similarity)


@given(problems())
@in_float64
def test_it_ignores_scale_and_relabelling_and_lies_in_its_range(problem):
    p, A, order = problem
    B = A + p[None, :]
    score = similar(A, B)
    assert -1 - 1e-12 <= score <= 1 + 1e-12
    np.testing.assert_allclose(similar(B, A), score, atol=1e-12)
    # Scaling by a power of two rounds nothing, so that ranks cannot change; sums in another order
    # round, and could reorder equal column sums: rounding A to 1/64 keeps them exact.
    A, B = np.round(64 * A) / 64, np.round(64 * B) / 64
    np.testing.assert_allclose(similar(4 * A, B), similar(A, B), atol=1e-12)
    relabelled = similar(A[order][:, order], B[order][:, order])
    np.testing.assert_allclose(relabelled, similar(A, B), atol=1e-12)


@in_float64
def test_ranks_with_ties_are_scipys():
    a, b = jnp.array([1.0, 2.0, 2.0, 5.0, 0.0]), jnp.array([3.0, 1.0, 4.0, 4.0, 4.0])
    np.testing.assert_allclose(spearman(a, b), scipy.stats.spearmanr(a, b).statistic, atol=1e-12)


def test_by_hand():
    # Column sums (3, 1) and (1, 3): cosine 6/10, opposite order -> (0.6 - 1) / 2.
    A, B = jnp.array([[2.0, 1.0], [1.0, 0.0]]), jnp.array([[1.0, 3.0]])
    np.testing.assert_allclose(matrix_similarity(A, B), -0.2, rtol=1e-6)  # float32
    assert matrix_similarity(A, jnp.zeros((2, 2))) == 0  # nothing to compare
    # Constant column sums (2, 2) have no order; cosine of (2, 2) and (3, 1) is 8 / sqrt(80).
    constant = matrix_similarity(jnp.ones((2, 2)), A)
    np.testing.assert_allclose(constant, 0.5 * 8 / np.sqrt(80), rtol=1e-6)
