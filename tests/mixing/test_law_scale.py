"""The scale of a method's matrix, and what two groups can identify of it."""

import numpy as np
import pytest
import scipy.optimize

from jlab.mixing.law_scale import fit_scale, two_group_matrix

P = np.random.default_rng(0).dirichlet(np.ones(3), 10)
A = np.array([[1.0, 0.2, 0.1], [0.3, 2.0, 0.0], [0.2, 0.1, 1.5]])


def test_a_planted_scale_comes_back():
    for huber in (0.02, None):
        np.testing.assert_allclose(fit_scale(A, P, -0.5 * P @ A.T, huber=huber), -0.5, atol=1e-9)
    shifted = -0.5 * P @ A.T + np.array([[0.3, -0.2, 0.1]])
    np.testing.assert_allclose(fit_scale(A, P, shifted, intercept=True), -0.5, atol=1e-9)
    assert abs(fit_scale(A, P, shifted) + 0.5) > 0.01  # the constants cannot be explained


def test_a_badly_matching_matrix_is_scaled_by_the_huber_minimum():
    change = -0.5 * P @ A.T[::-1]
    slope = (P @ A.T).ravel()

    def cost(b):
        r = abs(b * slope - change.ravel())
        return np.where(r <= 0.02, r**2 / 2, 0.02 * (r - 0.01)).sum()

    theirs = scipy.optimize.minimize_scalar(cost, (-2, 2), tol=1e-12).x
    np.testing.assert_allclose(fit_scale(A, P, change), theirs, atol=1e-6)  # sqrt of rounding
    assert abs(fit_scale(A, P, change, huber=None) - theirs) > 1e-3


def test_a_zero_matrix_has_scale_zero():
    assert fit_scale(np.zeros((3, 3)), P, -P) == 0


def test_two_groups_by_hand():
    matrix = np.array([[3.0, 1.0], [0.5, 2.0]])
    # b (3 - 1) and b (2 - 0.5); then each row times its loss.
    np.testing.assert_array_equal(two_group_matrix(matrix, -0.5), np.diag([-1.0, -0.75]))
    scaled = two_group_matrix(matrix, -0.5, loss=[2.0, 4.0])
    np.testing.assert_array_equal(scaled, np.diag([-2.0, -3.0]))


def test_shapes_that_do_not_match_are_refused():
    with pytest.raises(ValueError, match=r"one row per loss \(3\) and one column .*\(3\); got"):
        fit_scale(A[:2], P, -P)
    with pytest.raises(ValueError, match=r"matrix must be 2 by 2; got shape \(3, 3\)"):
        two_group_matrix(A)
