"""Shifting the curves of a family on top of one another."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jlab.sampling import coverage_curve, family_overlay


@given(st.integers(1, 60), st.data())
def test_the_budget_is_the_closest_of_all(n, data):
    problems = st.lists(st.integers(0, n), min_size=1, max_size=4)
    counts = data.draw(st.lists(problems, min_size=1, max_size=3))
    overlay = family_overlay(n, [np.array(c) for c in counts])
    ks = np.arange(1, n + 1)
    curves = [coverage_curve(n, np.array(c), ks) for c in counts]
    assert overlay.target == max(curve[0] for curve in curves)
    for curve, k in zip(curves, overlay.k, strict=True):
        gaps = np.abs(curve - overlay.target)
        np.testing.assert_allclose(gaps[k - 1], gaps.min(), atol=1e-15)  # a rounding of the curve


def test_the_first_budget_of_a_flat_curve_is_taken():
    # One model solves half of the problems always, the other none ever.
    overlay = family_overlay(9, [np.array([9, 0]), np.array([0, 0])])
    assert overlay.target == 0.5
    np.testing.assert_array_equal(overlay.k, [1, 1])


def test_models_may_have_different_numbers_of_samples():
    overlay = family_overlay([4, 100], [np.array([2]), np.array([1])])
    np.testing.assert_array_equal(overlay.k, [1, 50])  # one of a hundred: k/100


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: family_overlay(10, []), "counts must hold at least one model"),
        (lambda: family_overlay([10, 20], [np.array([1])]), r"one entry per model \(1\); got 2"),
    ],
)
def test_a_family_without_members_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
