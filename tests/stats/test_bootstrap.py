"""Resampling and percentile intervals."""

import numpy as np
import pytest

from jlab.stats import bootstrap, percentile_interval, resample


def test_the_spread_of_means_is_the_standard_error():
    values = np.random.default_rng(0).normal(size=100)
    means = bootstrap(np.mean, values, samples=2000, seed=1)
    # A standard deviation of 2000 draws is known to 1/sqrt(4000) = 1.6 %; 5 % is three of these.
    np.testing.assert_allclose(means.std(), values.std() / 10, rtol=0.05)
    low, high = percentile_interval(means, level=0.9)
    half_width = 1.645 * values.std() / 10
    np.testing.assert_allclose([values.mean() - low, high - values.mean()], half_width, rtol=0.15)


def test_arrays_are_resampled_together_and_a_seed_repeats_itself():
    x = np.arange(20.0)
    ratios = bootstrap(lambda a, b: np.stack([b / a]), x + 1, 3 * (x + 1), samples=5, seed=3)
    np.testing.assert_array_equal(ratios, np.full((5, 1, 20), 3.0))
    first, again = (bootstrap(np.mean, x, samples=5, seed=3) for _ in range(2))
    np.testing.assert_array_equal(first, again)


def test_an_interval_by_hand():
    low, high = percentile_interval(np.arange(101.0)[:, None], level=0.9)
    np.testing.assert_allclose([low, high], [[5], [95]], atol=1e-12)  # of 0 ... 100


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: resample(0, samples=1, seed=0), "n must be at least 1; got 0"),
        (lambda: resample(2, samples=0, seed=0), "samples must be at least 1; got 0"),
        (lambda: bootstrap(np.mean, [1, 2], [1]), r"equally long; got lengths \[1, 2\]"),
        (lambda: percentile_interval(np.ones(3), level=1.0), r"level must lie in \(0, 1\)"),
    ],
)
def test_what_cannot_be_resampled_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
