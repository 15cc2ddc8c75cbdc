"""Error, explained variance and ranks of a law's predictions."""

import numpy as np
import pytest
import scipy.stats

from jlab.mixing.law import LinearLaw
from jlab.mixing.law_quality import law_quality

P = np.array([[0.0, 1.0], [0.5, 0.5], [1.0, 0.0]])
LAW = LinearLaw(np.array([2.0]), np.array([[1.0, 0.0]]))  # predicts 2, 1.5, 1


def test_by_hand():
    # Residuals (0, 0.5, 0).
    loss = np.array([[2.0], [1.0], [1.0]])  # mean 4/3: SS_tot = 4/9 + 1/9 + 1/9 = 2/3
    quality = law_quality(LAW, P, loss)
    np.testing.assert_allclose(quality.mse, [0.25 / 3], rtol=1e-12)
    np.testing.assert_allclose(quality.r2, [1 - 0.25 / (2 / 3)], rtol=1e-12)
    theirs = scipy.stats.spearmanr([2, 1.5, 1], loss[:, 0]).statistic  # with a tie
    np.testing.assert_allclose(quality.spearman, [theirs], rtol=1e-12)


def test_a_perfect_law_and_one_that_ranks_backwards():
    loss = LAW.predict(P)
    np.testing.assert_allclose(np.ravel(law_quality(LAW, P, loss)), [0, 1, 1], atol=1e-12)
    mse, r2, spearman = law_quality(LAW, P, -loss)
    assert mse > 0
    assert r2 < 0
    np.testing.assert_allclose(spearman, -1, atol=1e-12)


def test_equal_losses_have_nothing_to_explain():
    assert law_quality(LAW, P, np.full((3, 1), 1.5))[1:] == (0, 0)
    assert law_quality(LAW, P[:1], np.full((1, 1), 1.5))[1:] == (0, 0)


def test_tables_of_another_law_are_refused():
    with pytest.raises(ValueError, match=r"one column per loss of the law; it has shape \(3, 2\)"):
        law_quality(LAW, P, np.ones((3, 2)))
    with pytest.raises(ValueError, match=r"loss\[1, 0\] is nan"):
        law_quality(LAW, P, np.array([[1.0], [np.nan], [1.0]]))
