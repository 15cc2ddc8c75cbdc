"""A law's study: the objective is one more loss, intervals hold the truth, bounds hold."""

from functools import partial

import numpy as np
import pytest

from jlab.mixing import LinearLaw, fit_linear_law
from jlab.mixing.law_study import study_law, with_objective

TRUE = LinearLaw(np.zeros(2), -np.array([[3.0, 4.0, 5.0], [6.0, 5.5, 5.0]]))
WEIGHTS = np.array([0.25, 0.75])


def study(samples, n=40, seed=0):
    random = np.random.default_rng(seed)
    p = random.dirichlet(np.ones(3), n)
    loss = TRUE.predict(p) + random.normal(0, 0.05, (n, 2))
    bounds = {"floor": np.zeros(3), "cap": np.full(3, 0.7)}
    return study_law(fit_linear_law, p, loss, weights=WEIGHTS, samples=samples, seed=3, **bounds)


def test_the_objective_is_the_last_loss():
    made = study(samples=0)
    p = np.array([[0.2, 0.3, 0.5], [1.0, 0.0, 0.0]])
    losses = made.law.predict(p)
    np.testing.assert_array_equal(made.predict(p)[:, :-1], losses)
    np.testing.assert_allclose(made.predict(p)[:, -1], losses @ [0.25, 0.75], rtol=1e-15)
    np.testing.assert_array_equal(made.objective(p), made.predict(p)[:, -1])
    np.testing.assert_array_equal(with_objective(losses, WEIGHTS), made.predict(p))


def test_intervals_hold_the_truth_as_often_as_they_say():
    """30 worlds, 6 parameters and a prediction each; 95 % of 210, less three deviations: 0.9."""
    held = []
    for seed in range(30):
        made = study(samples=100, seed=seed)
        at = made.predicted(np.array([0.0, 0.3, 0.7]))
        matrix = made.parameters()["matrix"]
        held += [at.low < 5.0375 < at.high]  # 0.3 * 5.125 + 0.7 * 5
        held += np.ravel((matrix.low < TRUE.matrix) & (TRUE.matrix < matrix.high)).tolist()
    assert 0.9 < np.mean(held) < 0.99


def test_more_runs_give_narrower_intervals_and_the_right_optimum():
    """A group alone has an objective of 5.25, 5.125 or 5: with caps of 0.7, (0, .3, .7) is best."""
    few, many = study(samples=100), study(samples=100, n=4000)
    wide, narrow = (np.ptp(made.parameters()["matrix"][1:], axis=0).mean() for made in (few, many))
    np.testing.assert_allclose(wide / narrow, 10, rtol=0.4)  # a hundred times the runs
    np.testing.assert_allclose(many.optimum, [0, 0.3, 0.7], atol=1e-9)
    np.testing.assert_allclose(few.optima.sum(1), 1, rtol=1e-12)
    assert few.optima.shape == (100, 3)
    assert few.optima.max() <= 0.7 + 1e-12
    shares = few.shares()
    assert np.all((shares.low <= shares.value) & (shares.value <= shares.high))


@pytest.mark.parametrize(("samples", "n"), [(0, 40), (50, 3)], ids=["none asked", "no residuals"])
def test_without_refits_there_are_values_but_no_intervals(samples, n):
    made = study(samples, n)
    assert made.refits is None
    assert made.optima.shape == (0, 3)
    for estimate in (made.predicted(made.optimum), made.shares(), made.parameters()["matrix"]):
        assert np.all(np.isfinite(estimate.value))
        assert np.all(np.isnan(estimate.low) & np.isnan(estimate.high))


def test_the_same_seed_gives_the_same_study():
    one, two = study(samples=5), study(samples=5)
    np.testing.assert_array_equal(one.optima, two.optima)


def test_a_fit_with_options_is_refitted_with_them():
    p = np.random.default_rng(0).dirichlet(np.ones(3), 20)
    bounds = {"weights": WEIGHTS, "floor": np.zeros(3), "cap": np.ones(3)}
    fit = partial(fit_linear_law, ridge=1e9)  # one level for all groups
    made = study_law(fit, p, TRUE.predict(p), samples=4, seed=0, **bounds)
    np.testing.assert_allclose(np.ptp(made.refits.laws.matrix, axis=2), 0, atol=1e-6)
