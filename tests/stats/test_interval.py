"""Student's interval of a mean: by hand, its coverage, and what it refuses."""

import numpy as np
import pytest

from jlab.stats import mean_interval


def test_three_numbers_by_hand():
    """1, 2, 3: mean 2, standard deviation 1 (n - 1), error 1 / sqrt(3), t(2, .975) = 4.302653."""
    found = mean_interval(np.array([1.0, 2.0, 3.0]))
    assert found.mean == 2
    assert found.half_width == pytest.approx(4.302653 / np.sqrt(3), rel=1e-6)  # digits of t
    assert not found.excludes_zero
    assert mean_interval([-3.0, -3.1, -2.9]).excludes_zero


def test_it_holds_the_true_mean_as_often_as_it_says():
    draws = np.random.default_rng(0).normal(1.0, 2.0, (2000, 4))
    held = [abs(i.mean - 1) <= i.half_width for i in map(mean_interval, draws)]
    # 2000 draws at 0.95 have a standard error of 0.005.
    assert 0.93 < np.mean(held) < 0.97


def test_one_number_has_no_interval():
    found = mean_interval([4.0])
    assert found.mean == 4
    assert np.isnan(found.half_width)
    assert not found.excludes_zero


def test_what_has_no_mean_is_refused():
    with pytest.raises(ValueError, match="values must hold at least one number"):
        mean_interval([])
    with pytest.raises(ValueError, match=r"level must be in \(0, 1\); got 1.0"):
        mean_interval([1.0], level=1.0)
