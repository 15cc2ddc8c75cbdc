"""A method's matrix against the fitted one, in worlds where the answer is known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jlab.mixing import dirichlet_samples, simplex_cover
from train.sweep_laws import fidelity, left_out_r2
from train.sweep_matrices import EQUAL, match, method_matrices, proportions

P = simplex_cover(dirichlet_samples(0, 3, 12), 12)
P = P / P.sum(1, keepdims=True)
A = np.array([[0.9, 0.1, 0.2], [0.0, 0.7, 0.1], [0.3, 0.0, 0.4]])  # columns sum to 1.2, 0.8, 0.7
CHANGE = -P @ A.T


@given(st.floats(0.01, 100.0))
def test_the_fitted_matrix_in_other_units_agrees_in_all(unit):
    found = match(unit * A, A, P, CHANGE)
    # 1e-6: the Huber fit of the scale ends there.
    np.testing.assert_allclose(found["scale"], 1 / unit, rtol=1e-6)
    assert found["similarity"] == pytest.approx(1.0, abs=1e-9)
    assert found["r2"] == pytest.approx(1.0, abs=1e-9)
    assert (found["best"], found["best_fitted"], found["best_own"]) == (0, 0, 0)


def test_a_matrix_of_the_wrong_sign_is_turned_round_by_its_scale():
    found = match(-A, A, P, CHANGE)
    assert found["scale"] == pytest.approx(-1.0)
    assert found["similarity"] == pytest.approx(1.0)


def test_no_preference_has_the_cosine_of_its_level_and_no_order():
    """Column sums (1.2, 0.8, 0.7) against (1, 1, 1): 2.7 / sqrt(3 * 2.57); ties have no order."""
    found = match(np.ones((3, 3)), A, P, CHANGE)
    assert found["cosine"] == pytest.approx(2.7 / np.sqrt(3 * 2.57))
    assert found["spearman"] == 0
    assert found["similarity"] == pytest.approx(found["cosine"] / 2)


def test_the_order_of_the_groups_counts_as_much_as_the_direction():
    """Columns swapped: ranks (3, 2, 1) against (3, 1, 2), a rank correlation of 1/2."""
    other = A[:, [0, 2, 1]]
    found = match(other, A, P, CHANGE)
    assert found["spearman"] == pytest.approx(0.5)
    assert found["best"] == 0
    assert found["r2"] < 0.9


def test_of_two_groups_only_one_slope_per_loss_is_seen():
    """A constant in a row changes nothing: its loss falls alike in all mixtures."""
    p = np.stack([np.linspace(0.1, 0.9, 5), np.linspace(0.9, 0.1, 5)], 1)
    a = np.array([[0.5, 0.2], [0.1, 0.8]])
    shifted = a + np.array([[2.0], [1.0]])
    found = match(shifted, a, p, -p @ a.T)
    assert found["scale"] == pytest.approx(1.0, rel=1e-6)
    assert found["similarity"] == pytest.approx(1.0)
    assert found["r2"] == pytest.approx(1.0)
    assert (found["best"], found["best_fitted"]) == (1, 1)  # slopes 0.3 and 0.7


def test_each_method_has_the_matrix_of_its_formula():
    before = np.array([2.0, 3.0])
    graph = np.array([[0.5, 0.1], [0.2, 0.4]])  # rows trained
    seen = {
        "train_loss": [2.5, 3.0],
        "reference_loss": [2.0, 3.5],
        "products": [[0.9, 0.1], [0.2, 0.8]],
    }
    found = method_matrices(graph, np.eye(2), before, seen)
    np.testing.assert_allclose(found["skillit"], [[1.0, 0.4], [0.3, 1.2]])  # G^T, rows times loss
    np.testing.assert_allclose(found["doremi"], [[0.5, 0], [0, 0]])  # clipped below at 0
    np.testing.assert_allclose(found["odm"], [[5.0, 0], [0, 6.0]])  # loss / (1/2)
    np.testing.assert_array_equal(found["doge"], seen["products"])
    np.testing.assert_array_equal(found["aioli"], np.eye(2))
    assert np.ptp(found[EQUAL]) == 0


def test_the_solver_takes_one_step_per_matrix():
    """Normalised diag(3, 1) sums to (3/4, 1/4) by column; twice with rate 2 ln 2: odds of 4."""
    followed = proportions([np.diag([3.0, 1.0])] * 2, 2 * np.log(2))
    np.testing.assert_allclose(followed, [[1 / 2, 1 / 2], [2 / 3, 1 / 3], [4 / 5, 1 / 5]])
    nowhere = proportions([np.ones((2, 2)), np.zeros((2, 2))], 5.0)
    np.testing.assert_allclose(nowhere, 0.5)


def test_each_law_is_perfect_in_its_own_world():
    after = 4 + CHANGE
    found = fidelity(P, after, np.full(3, 4.0))
    # 1e-9 for the law's own world; the log-linear one only comes near it, with a far floor.
    np.testing.assert_allclose(found["linear"]["r2"], 1, atol=1e-9)
    np.testing.assert_allclose(found["linear"]["r2_left_out"], 1, atol=1e-9)
    np.testing.assert_allclose(found["linear"]["predicted"], after, atol=1e-9)
    found = fidelity(P, 2 + np.exp(-3 * P @ A.T))
    np.testing.assert_allclose(found["log-linear"]["r2"], 1, atol=1e-6)
    np.testing.assert_allclose(found["log-linear"]["r2_left_out"], 1, atol=1e-5)
    assert max(found["linear"]["r2"]) < 0.999


def test_a_run_that_is_left_out_does_not_help_to_predict_itself():
    class Mean:
        def __init__(self, losses):
            self.losses = losses

        def predict(self, p):
            return self.losses.mean(0)

    p = np.eye(3)
    losses = np.array([[0.0, 5.0], [1.0, 5.0], [2.0, 5.0]])
    # Left out, predictions are 1.5, 1, 0.5: errors 1.5^2 + 0 + 1.5^2 over a variance sum of 2.
    found = left_out_r2(lambda p, losses: Mean(losses), p, losses)
    np.testing.assert_allclose(found, [1 - 4.5 / 2, 0])
