"""pass@k, coverage curves, their intervals and grids."""

from fractions import Fraction
from math import comb

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jlab.sampling import coverage_curve, coverage_interval, k_grid, pass_at_k, problem_curves


@st.composite
def counts(draw, largest: int = 3000):
    n = draw(st.integers(1, largest))
    return n, draw(st.integers(0, n)), draw(st.integers(1, n))


def exact(n: int, c: int, k: int) -> Fraction:
    return 1 - Fraction(comb(n - c, k), comb(n, k))


@given(counts())
def test_float64_agrees_with_binomials(nck):
    value, truth = Fraction(float(pass_at_k(*nck))), exact(*nck)
    assert abs(value - truth) <= 4e-16  # two roundings of a number below 1
    # Tiny values are as precise as large ones: 4e-15 is some twenty roundings.
    assert abs(value - truth) <= 4e-15 * truth


def test_every_small_case_agrees_with_binomials():
    cases = [(n, c, k) for n in range(1, 19) for c in range(n + 1) for k in range(1, n + 1)]
    truth = np.array([float(exact(*case)) for case in cases])
    # 4e-16: as above, for numbers of samples whose factorials come from the table.
    np.testing.assert_allclose(pass_at_k(*np.array(cases).T), truth, rtol=0, atol=4e-16)


@given(counts())
def test_float32_agrees_with_binomials(nck):
    value = float(jax.jit(pass_at_k)(*(jnp.asarray(x, jnp.int32) for x in nck)))
    assert abs(value - exact(*nck)) <= 2e-7  # three units in the last place of numbers below 1


def test_a_million_samples_agree_with_a_sum_of_logarithms():
    n, c, k = 10**6, 1000, 2000
    j = np.arange(n - c + 1, n + 1)
    direct = -np.expm1(np.log1p(-k / j).sum())
    np.testing.assert_allclose(pass_at_k(n, c, k), direct, rtol=1e-14)  # a thousand roundings


@given(counts())
def test_k_and_c_are_interchangeable(nck):
    n, c, k = nck
    if c > 0:
        np.testing.assert_allclose(pass_at_k(n, c, k), pass_at_k(n, k, c), rtol=1e-14)


@given(counts())
def test_more_samples_never_hurt(nck):
    n, c, _ = nck
    curve = pass_at_k(n, c, np.arange(1, n + 1))
    assert np.all(np.diff(curve) >= -4e-16)
    assert curve[-1] == (c > 0)
    np.testing.assert_allclose(curve[0], c / n, rtol=4e-15)


def test_three_of_ten_by_hand():
    # One sample: 3/10. Two: 1 - (7/10)(6/9) = 8/15. Eight: only 7 are wrong, so certainly.
    np.testing.assert_allclose(pass_at_k(10, 3, np.array([1, 2, 8])), [0.3, 8 / 15, 1], rtol=1e-15)


def test_a_jax_argument_gives_a_jax_result_in_its_type():
    assert isinstance(pass_at_k(10, 3, 2), np.float64)
    assert pass_at_k(10, jnp.array(3), 2).dtype == jnp.float32
    with jax.enable_x64(True):
        assert pass_at_k(10, jnp.array(3.0, jnp.float32), 2).dtype == jnp.float32
        assert pass_at_k(10, jnp.array(3), 2).dtype == jnp.float64


def test_vmap_over_problems_equals_broadcasting():
    c, k = jnp.array([0, 3, 10]), jnp.array([1, 4])
    with jax.numpy_dtype_promotion("strict"):
        looped = jax.vmap(lambda c: pass_at_k(10, c, k))(c)
        np.testing.assert_array_equal(looped, pass_at_k(10, c[:, None], k[None, :]))


def test_impossible_counts_are_nan_under_jit():
    n, c, k = jnp.array([0, 10, 10, 10]), jnp.array([0, 11, -1, 3]), jnp.array([1, 1, 1, 11])
    assert np.all(np.isnan(jax.jit(pass_at_k)(n, c, k)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: pass_at_k(0, 0, 1), "n must be at least 1; got 0"),
        (lambda: pass_at_k(10, 11, 1), r"c must be in \[0, n\]; got 11"),
        (lambda: pass_at_k(10, np.array([3, -1]), 1), r"c must be in \[0, n\]; got -1"),
        (lambda: pass_at_k(10, 3, 0), r"k must be in \[1, n\]; got 0"),
        (lambda: pass_at_k(10, 3, 2.5), "k must be whole numbers; got 2.5"),
        (lambda: pass_at_k(np.array([10, 5]), 3, 7), r"k must be in \[1, n\]; got 7"),
        (lambda: coverage_curve(10, [[1]], [1]), r"c must be \[problems\].*got shapes \(1, 1\)"),
        (lambda: coverage_curve([10, 10], [1], [1]), r"n one number or \[problems\]"),
        (lambda: coverage_curve([10, 5], [1, 1], [7]), r"k must be in \[1, n\]; got 7"),
        (lambda: k_grid(0), "n must be at least 1; got 0"),
        (lambda: k_grid(10, points=0), "points must be at least 1; got 0"),
    ],
)
def test_impossible_counts_are_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_problems_may_have_different_numbers_of_samples():
    n, c, ks = np.array([4, 10]), np.array([1, 5]), np.array([1, 2])
    by_hand = [[1 / 4, 1 / 2], [1 / 2, 1 - (5 / 10) * (4 / 9)]]
    np.testing.assert_allclose(problem_curves(n, c, ks), by_hand, rtol=1e-15)
    np.testing.assert_allclose(coverage_curve(n, c, ks), np.mean(by_hand, axis=0), rtol=1e-15)


def test_a_curve_of_jax_arrays_works_under_jit():
    c, ks = jnp.array([0, 3, 10]), jnp.array([1, 4, 10])
    curve = jax.jit(lambda c: coverage_curve(10, c, ks))(c)
    np.testing.assert_allclose(curve, coverage_curve(10, np.asarray(c), np.asarray(ks)), rtol=1e-6)


def test_the_interval_holds_the_coverage_of_the_population():
    """Of 40 groups of 60 problems, 90 % intervals hold the truth in about 36."""
    alpha, beta, n, k = 0.5, 2.0, 200, 5
    random, hits = np.random.default_rng(0), 0
    truth = 1 - np.prod([(beta + i) / (alpha + beta + i) for i in range(k)])
    for seed in range(40):
        c = random.binomial(n, random.beta(alpha, beta, 60))
        low, high = coverage_interval(n, c, np.array([k]), level=0.9, samples=200, seed=seed)
        hits += bool(low[0] <= truth <= high[0])
    assert hits >= 31  # 36 expected, standard deviation 1.9


def test_the_interval_of_problems_that_are_all_or_nothing_is_that_of_a_share():
    c = np.repeat([0, 9], 200)
    low, high = coverage_interval(9, c, np.array([1, 5]), level=0.9, samples=2000)
    half_width = 1.645 * np.sqrt(0.25 / 400)
    # 10 %: quantiles of 2000 draws are known to about 3 % of the half width.
    np.testing.assert_allclose([0.5 - low, high - 0.5], half_width, rtol=0.1)


@pytest.mark.parametrize("c", [[3], [0, 0, 0], [9, 9, 9]])
def test_what_resampling_cannot_tell_has_no_interval(c):
    assert np.isnan(coverage_interval(9, np.array(c), np.array([1, 5]))).all()


def test_a_grid_ends_at_one_and_n_and_repeats_nothing():
    for n in (1, 2, 7, 10_000, 12_345_678):
        grid = k_grid(n)
        assert (grid[0], grid[-1]) == (1, n)
        assert np.all(np.diff(grid) > 0)
