"""Intervals of laws, predictions and optima."""

from functools import partial

import numpy as np
import pytest

from jlab.mixing.fit_law import fit_linear_law, fit_log_linear_law
from jlab.mixing.law import LogLinearLaw
from jlab.mixing.law_bootstrap import bootstrap_law
from jlab.stats import percentile_interval

LAW = LogLinearLaw(np.array([2.0, 1.0]), np.ones(2), np.array([[2.0, 0.5], [0.2, 1.5]]))
P = np.random.default_rng(0).dirichlet(np.ones(2), 16)
EVERYWHERE = np.stack([np.linspace(0.1, 0.9, 5), np.linspace(0.9, 0.1, 5)], axis=1)


def noisy(seed: int, size: float = 0.01) -> np.ndarray:
    return LAW.predict(P) + size * np.random.default_rng(seed).normal(size=(len(P), 2))


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    held = {"prediction": [], "optimum": []}
    for seed in range(20):
        refits = bootstrap_law(fit_log_linear_law, P, noisy(seed), samples=50, seed=seed)
        low, high = percentile_interval(refits.predict(EVERYWHERE), level=0.9)
        truth = LAW.predict(EVERYWHERE)
        held["prediction"].append(np.mean((low <= truth) & (truth <= high)))
        low, high = percentile_interval(refits.optima()[:, 0], level=0.9)
        held["optimum"].append(low <= LAW.minimize()[0] <= high)
    # 20 draws at 0.9 have a standard error of 0.067; resampling 16 runs loses a few points more.
    for name, shares in held.items():
        assert 0.72 <= np.mean(shares) <= 1, name


def test_refits_are_stacked_repeatable_and_shrink_with_the_noise():
    loss = noisy(0)
    refits = bootstrap_law(fit_linear_law, P, loss, samples=40, seed=1)
    assert refits.laws.matrix.shape == (40, 2, 2)
    assert refits.predict(EVERYWHERE).shape == (40, 5, 2)
    optima = refits.optima(weights=[1, 3], floor=0.1)
    assert optima.shape == (40, 2)
    np.testing.assert_allclose(optima.min(1), 0.1, atol=1e-12)  # a linear law ends at a bound
    again = bootstrap_law(fit_linear_law, P, loss, samples=40, seed=1)
    np.testing.assert_array_equal(again.laws.matrix, refits.laws.matrix)
    widths = []
    for size in (0.02, 0.005):
        fit = partial(fit_log_linear_law, huber=0.02)
        low, high = percentile_interval(
            bootstrap_law(fit, P, noisy(0, size), samples=60).predict(EVERYWHERE)
        )
        widths.append((high - low).mean())
    np.testing.assert_allclose(widths[0] / widths[1], 4, rtol=0.4)  # Huber cuts the larger noise


def test_the_refits_of_few_runs_are_widened_for_the_parameters_that_were_fitted():
    """n = 4 runs, d = 2 parameters: residuals are sqrt(4 / 2) too small, and are scaled up.

    A linear law is linear in its losses, so refits move by the least-squares map of the resampled
    residuals: their variance is that map's, times the mean square of the widened residuals.
    """
    p = np.array([[0.1, 0.9], [0.4, 0.6], [0.6, 0.4], [0.9, 0.1]])
    loss = p @ np.array([[1.0], [2.0]]) + np.array([[0.03], [-0.05], [0.01], [0.02]])
    refits = bootstrap_law(fit_linear_law, p, loss, samples=4000)
    residual = loss[:, 0] - refits.law.predict(p)[:, 0]
    residual = (residual - residual.mean()) * np.sqrt(4 / 2)
    expected = np.sqrt((np.linalg.pinv(p) ** 2).sum(1) * (residual**2).mean())
    # 4000 refits: 1.1 % standard error of a standard deviation.
    np.testing.assert_allclose(refits.laws.matrix[:, 0].std(0), expected, rtol=0.05)


def test_a_law_without_residuals_has_no_interval():
    with pytest.raises(ValueError, match="needs at least 4 runs, one more than the 3 parameters"):
        bootstrap_law(fit_log_linear_law, P[:3], noisy(0)[:3])
