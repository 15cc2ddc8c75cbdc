"""What is said of a coverage curve, on curves whose answer is known."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jlab.sampling import CoverageLaw, problem_curves
from jlab.sampling.exact import exact_curves
from jlab.sampling.study import LAWS, decades, round_budgets, study_coverage, verdict

MOST = 1000  # one size of grid, so that the fit is compiled once


def mixed(seed: int = 0, problems: int = 256) -> np.ndarray:
    """Success rates with a heavy tail towards 0."""
    return np.random.default_rng(seed).beta(0.3, 4, problems)


def test_a_curve_that_is_the_law_is_fitted_and_called_straight_enough_or_not():
    law = CoverageLaw(-4.0, -0.3)
    study = study_coverage(lambda ks: np.tile(law.predict(ks), (5, 1)), MOST)
    # 1e-6 of the curve's height: the fit stops there; all problems are alike, so no interval.
    np.testing.assert_allclose(study.law.law, law, rtol=1e-5)
    assert study.law.error.worst < 1e-6
    assert study.law.outside == 0
    np.testing.assert_allclose(study.law.low, study.law.high, rtol=1e-6)
    assert "within the interval of the curve throughout" in verdict(study)


def test_mixed_difficulty_has_a_law_and_equal_difficulty_has_none():
    """The same task size; only the spread of the success rates differs."""
    spread = study_coverage(partial(exact_curves, mixed()), MOST)
    assert spread.law.error.mean < 0.02 < 0.1 < spread.law.equal_error.mean
    assert "difficulty is mixed" in verdict(spread)
    alike = study_coverage(partial(exact_curves, np.full(64, 0.01)), MOST)
    assert alike.law.equal_error.worst < 1e-6 < 0.03 < alike.law.error.worst
    np.testing.assert_allclose(alike.law.equal, 0.01, rtol=1e-4)
    assert verdict(alike).startswith("There is no log-linear law here")


def test_the_interval_holds_the_curve_and_narrows_with_more_problems():
    few, many = (study_coverage(partial(exact_curves, mixed(1, p)), MOST) for p in (32, 2048))
    for study in (few, many):
        assert np.all((study.low <= study.coverage) & (study.coverage <= study.high))
        assert study.law.low.b <= study.law.law.b <= study.law.high.b
    assert np.mean(many.high - many.low) < 0.3 * np.mean(few.high - few.low)  # 1 / 8 in theory


@given(st.integers(0, 2**32 - 1), st.integers(2, 300))
def test_counts_in_another_order_give_the_same_curve(seed, most):
    random = np.random.default_rng(seed)
    c = random.binomial(most, random.beta(0.3, 3, 20))
    one, other = (
        partial(problem_curves, most, counts)(decades(most)).mean(0)
        for counts in (c, random.permutation(c))
    )
    np.testing.assert_allclose(one, other, rtol=1e-12)  # sums in another order


def test_round_budgets_are_on_the_grid_and_at_looks_them_up():
    assert round_budgets(1) == [1]
    assert round_budgets(10) == [1, 10]
    assert round_budgets(2500) == [1, 10, 100, 1000, 2500]
    assert set(round_budgets(2500)) <= set(decades(2500).tolist())
    study = study_coverage(partial(exact_curves, np.array([0.5, 0.0])), MOST)
    assert study.at(1)[0] == pytest.approx(0.25, rel=1e-12)
    assert study.at(MOST)[0] == pytest.approx(0.5, rel=1e-12)


@pytest.mark.parametrize(
    ("p", "most", "says"),
    [
        ([0.0, 0.0], 100, "No law is fitted to a curve that does not rise."),
        ([1.0, 1.0], 100, "No law is fitted to a curve that does not rise."),
        ([0.0], 100, "No law is fitted to a curve that does not rise. One problem gives no"),
        ([0.5, 0.1], 1, "No law is fitted to one budget."),
        ([1e-6, 1e-5], MOST, "Coverage stays below 2%"),
    ],
)
def test_where_there_is_nothing_to_fit_it_is_said(p, most, says):
    study = study_coverage(partial(exact_curves, np.array(p)), most)
    assert verdict(study).startswith(says)


@pytest.mark.parametrize(
    ("p", "says"),
    [
        ([0.002], "One problem gives no interval"),
        ([0.0, 0.0], "No problem is solved: resampling them cannot give an interval."),
        ([1.0, 1.0], "All problems give the same: resampling them cannot give an interval."),
    ],
)
def test_what_resampling_cannot_tell_has_no_interval(p, says):
    study = study_coverage(partial(exact_curves, np.array(p)), MOST)
    assert np.isnan([study.low, study.high]).all()
    assert says in verdict(study)
    assert "interval of the curve" not in verdict(study)
    if study.law is not None:
        assert np.isnan([*study.law.low, *study.law.high, study.law.outside]).all()


def test_intervals_of_95_percent_rest_on_as_many_laws_as_they_take():
    assert LAWS >= 1000  # `bootstrap_coverage_law` says so


def test_a_saturated_curve_is_called_no_straight_line():
    p = np.concatenate([np.full(9, 0.9), np.full(1, 0.001)])
    study = study_coverage(partial(exact_curves, p), MOST)
    assert "no straight line in log k" in verdict(study)
    assert "since it saturates" in verdict(study)
