"""The exponentiated power law of coverage."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jlab.sampling import (
    CoverageLaw,
    bootstrap_coverage_law,
    coverage_curve,
    fit_coverage_law,
    k_grid,
    law_error,
)
from jlab.stats import percentile_interval

K = k_grid(10_000)


@given(st.floats(-8, -0.05), st.floats(-1.5, -0.05))
def test_a_curve_that_follows_the_law_gives_its_parameters_back(a, b):
    law = fit_coverage_law(K, CoverageLaw(a, b).predict(K))
    # 1e-6: where the curve is flat at 1 its coverage hardly depends on b.
    np.testing.assert_allclose(law, (a, b), rtol=1e-6)


@given(st.integers(0, 2**32 - 1))
def test_no_neighbour_of_the_fit_is_better(seed):
    random = np.random.default_rng(seed)
    c = coverage_curve(10_000, random.binomial(10_000, random.beta(0.3, 3, 64)), K)
    law = fit_coverage_law(K, c)

    def squares(law):
        return ((law.predict(K) - c) ** 2).sum()

    for step in np.array([[1e-4, 0], [-1e-4, 0], [0, 1e-4], [0, -1e-4]]):
        assert squares(CoverageLaw(*(np.array(law) + step))) >= squares(law)


def test_one_and_half_coverage_by_hand():
    law = CoverageLaw(-2.0, -0.5)
    np.testing.assert_allclose(law.predict(1), np.exp(-2), rtol=1e-15)
    # exp(-2 k^-1/2) = 1/2 at k = (2 / log 2)^2
    np.testing.assert_allclose(law.k_at(0.5), (2 / np.log(2)) ** 2, rtol=1e-14)
    np.testing.assert_allclose(law.predict(law.k_at([0.2, 0.9])), [0.2, 0.9], rtol=1e-14)


def test_many_laws_predict_side_by_side():
    laws = CoverageLaw(np.array([-2.0, -1.0]), np.array([-0.5, -0.3]))
    expected = [CoverageLaw(-2.0, -0.5).predict(K), CoverageLaw(-1.0, -0.3).predict(K)]
    np.testing.assert_array_equal(laws.predict(K), expected)
    assert laws.predict(7).shape == laws.k_at(0.5).shape == (2,)


def test_a_law_that_does_not_grow_never_reaches_a_coverage():
    laws = CoverageLaw(np.array([-2.0, -2.0, -2.0, 0.0]), np.array([-0.5, 0.0, 0.3, -0.5]))
    np.testing.assert_allclose(laws.k_at(0.5), [(2 / np.log(2)) ** 2, *[np.inf] * 3], rtol=1e-14)
    assert laws.k_at([0.2, 0.9]).shape == (4, 2)
    assert CoverageLaw(-2.0, -1e-4).k_at(0.5) == np.inf


def test_the_error_of_a_law_by_hand():
    flat = CoverageLaw(np.log(0.5), 0.0)
    mean, std, worst = law_error(flat, np.array([1, 2]), np.array([0.4, 0.8]))
    np.testing.assert_allclose((mean, std, worst), (0.2, 0.1, 0.3), rtol=1e-14)  # |.1|, |.3|


def test_resampled_laws_surround_the_fit():
    random = np.random.default_rng(3)
    c = random.binomial(1000, random.beta(0.3, 3, 100))
    ks = k_grid(1000, points=12)
    law = fit_coverage_law(ks, coverage_curve(1000, c, ks))
    laws = bootstrap_coverage_law(1000, c, ks, samples=60, seed=1)
    for fitted, resampled in zip(law, laws, strict=True):
        low, high = percentile_interval(resampled)
        assert low < fitted < high
    again = bootstrap_coverage_law(1000, c, ks, samples=60, seed=1)
    np.testing.assert_array_equal(laws.a, again.a)


def test_a_curve_at_its_ceiling_and_one_that_hardly_leaves_zero_are_fitted():
    ceiling = fit_coverage_law(K, np.ones(len(K)))
    np.testing.assert_allclose(ceiling.predict(50), 1, atol=1e-6)
    last_alone = np.eye(len(K))[-1] * 0.01
    floor = fit_coverage_law(K, last_alone)
    np.testing.assert_allclose(floor.predict(K), last_alone, atol=2e-3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fit_coverage_law([1, 2], [0.1]), r"equally long.*got shapes \(2,\) and \(1,\)"),
        (lambda: fit_coverage_law([3, 3], [0.1, 0.1]), "at least two different k"),
        (lambda: fit_coverage_law([0, 1], [0.1, 0.2]), "k must be at least 1; got 0"),
        (lambda: fit_coverage_law([1, 2], [0.1, 1.2]), r"c must lie in \[0, 1\]; got 0.1 to 1.2"),
        (lambda: fit_coverage_law([1, 2], [0, 0]), "c must rise above 0 .* nothing was solved"),
        (lambda: bootstrap_coverage_law(10, np.zeros(3, int)), "c must hold a correct sample"),
        (lambda: CoverageLaw(-1.0, 0.5).k_at(0.1), "a and b must be negative .*; got -1.0, 0.5"),
        (lambda: CoverageLaw(-1.0, 0.0).k_at(0.1), "a and b must be negative .*; got -1.0, 0.0"),
        (lambda: bootstrap_coverage_law(10, np.array([3])), "c must hold at least 2 problems"),
        (lambda: CoverageLaw(-1.0, -1.0).k_at(1.0), r"coverage must lie in \(0, 1\); got 1.0"),
    ],
)
def test_what_has_no_law_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
