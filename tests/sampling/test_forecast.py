"""Forecasts of coverage from the distribution of success rates."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jlab.sampling import BetaLaw, fit_beta
from jlab.sampling.forecast import _minus_log_likelihood


@given(st.floats(0.05, 5), st.floats(0.5, 50), st.integers(1, 200))
def test_the_prediction_is_a_product_of_failures(alpha, beta, k):
    """E (1 - p)^k = product of (beta + i) / (alpha + beta + i): fail, and fail again."""
    i = np.arange(k)
    product = 1 - np.prod((beta + i) / (alpha + beta + i))
    np.testing.assert_allclose(BetaLaw(alpha, beta).predict(k), product, rtol=1e-9, atol=1e-12)


def test_uniform_rates_by_hand():
    # p uniform: the chance that k samples all fail is 1 / (k + 1).
    np.testing.assert_allclose(BetaLaw(1.0, 1.0).predict([1, 2, 9]), [1 / 2, 2 / 3, 9 / 10])


def test_failure_dies_out_like_a_power_of_k():
    law = BetaLaw(0.4, 3.0)
    k = np.array([1e5, 1e6])
    slope = np.diff(np.log(1 - law.predict(k))) / np.diff(np.log(k))
    np.testing.assert_allclose(slope, -0.4, atol=1e-4)  # corrections fall like 1/k


@given(st.floats(-2, 2), st.floats(-2, 3), st.integers(0, 2**32 - 1))
def test_the_slope_of_the_likelihood_is_its_derivative(log_alpha, log_beta, seed):
    random = np.random.default_rng(seed)
    n = random.integers(1, 50, 6).astype(float)
    c = np.floor(random.random(6) * (n + 1))
    at = np.array([log_alpha, log_beta])
    _, slope = _minus_log_likelihood(at, n, c)
    for axis in np.eye(2):
        step = 1e-5 * axis
        up, down = (_minus_log_likelihood(at + s, n, c)[0] for s in (step, -step))
        # 1e-6: the second-order error of the difference, and rounding over 1e-5.
        np.testing.assert_allclose((up - down) / 2e-5, slope @ axis, rtol=1e-5, atol=1e-6)


def test_a_hundred_samples_foretell_ten_thousand():
    """Coverage at a budget a hundred times larger than what was sampled, to a few percent."""
    random = np.random.default_rng(0)
    p = random.beta(0.3, 4.0, 512)
    law = fit_beta(100, random.binomial(100, p))
    truth = 1 - ((1 - p) ** 10_000).mean()
    # alpha is known to about 5 % from 512 problems, and log failure = -alpha log k.
    assert abs(law.predict(10_000) - truth) < 0.03
    assert abs(law.alpha - 0.3) < 0.05


@pytest.mark.parametrize(
    ("n", "c", "message"),
    [
        (10, [0, 0], "both right and wrong samples: got 0 right ones of 20"),
        (10, [10, 10], "both right and wrong samples: got 20 right ones of 20"),
        (10, [11], r"c must be \[problems\] and in \[0, n\]"),
        (10, [[1]], r"c must be \[problems\] and in \[0, n\]; got shape \(1, 1\)"),
    ],
)
def test_counts_without_a_distribution_are_refused(n, c, message):
    with pytest.raises(ValueError, match=message):
        fit_beta(n, c)
