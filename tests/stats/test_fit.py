"""Least squares and Huber fits from many starts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from hypothesis import given
from hypothesis import strategies as st

from jlab.stats import multistart_fit
from jlab.stats.fit import FINALISTS

T = np.linspace(0, 3, 12)


def decay(params, t, y):
    """L = c + exp(b - k t), with params (c, b, k)."""
    return params[0] + jnp.exp(params[1] - params[2] * t) - y


def wave(params, t, y):
    """Many local minima in the frequency."""
    return jnp.sin(params[0] * t) - y


def line(params, x, y):
    return params[0] + params[1] * x - y


def seven(params, x, y):
    """A polynomial with seven coefficients."""
    return (x[:, None] ** jnp.arange(7.0)[None, :] * params[None, :]).sum(1) - y


def noisy(seed: int, outliers: int = 0):
    random = np.random.default_rng(seed)
    y = 2 + np.exp(1 - T) + 0.01 * random.normal(size=T.size)
    y[:outliers] += 1.0
    return y


@given(st.floats(-2, 2), st.floats(-1, 1), st.floats(0.5, 2))
def test_planted_parameters_come_back(c, b, k):
    y = c + np.exp(b - k * T)
    fit = multistart_fit(decay, np.array([[0.0, 0.0, 1.0]]), T, y)
    assert fit.converged
    np.testing.assert_allclose(fit.params, [c, b, k], atol=1e-6)  # J^T J is near 1e-3 at worst


def test_the_minimum_is_scipys_with_and_without_huber():
    for huber, outliers in ((None, 0), (0.02, 2)):
        y = noisy(0, outliers)
        fit = multistart_fit(decay, np.array([[1.0, 0.0, 1.0]]), T, y, huber=huber)
        theirs = scipy.optimize.least_squares(
            lambda x, y=y: x[0] + np.exp(x[1] - x[2] * T) - y,
            [2, 1, 1],
            loss="huber" if huber else "linear",
            f_scale=huber or 1,
            xtol=1e-14,
            ftol=1e-14,
            gtol=1e-14,
        )
        # Theirs stops at sqrt(eps); cost is flat there, so ours may be better but not worse.
        np.testing.assert_allclose(fit.params, theirs.x, atol=1e-5)
        assert fit.cost <= theirs.cost * (1 + 1e-9)


def test_huber_can_differ_per_residual():
    """One residual that is cut, at 10 with delta 1, pulls like one at 1; the others are squared."""
    x, y = np.zeros(4), np.array([0.0, 0.0, 0.0, 10.0])
    params, *_ = multistart_fit(line, np.zeros((1, 2)), x, y, huber=np.array([np.inf] * 3 + [1.0]))
    np.testing.assert_allclose(params[0], 1 / 3, atol=1e-9)  # 3 level = delta


def test_the_best_of_many_starts_wins():
    y = np.sin(5 * T)
    one = multistart_fit(wave, np.array([[1.0]]), T, y)
    many = multistart_fit(wave, np.linspace(0.5, 8, 3 * FINALISTS)[:, None], T, y)
    assert one.cost > 1
    np.testing.assert_allclose(many.params, [5.0], atol=1e-8)
    assert many.cost == many.costs.min()
    assert many.costs.shape == (3 * FINALISTS,)


def test_starts_that_overflow_are_passed_over():
    starts = np.array([[0.0, 1e4, 1.0], [0.0, 0.0, 1.0]])
    fit = multistart_fit(decay, starts, T, noisy(0))
    assert np.isinf(fit.costs[0])
    assert fit.cost == fit.costs[1] < 1e-2
    with pytest.raises(ValueError, match="no start of problem 0 has a finite cost"):
        multistart_fit(decay, starts[:1].repeat(2, 0), T, noisy(0))


def test_a_batch_of_problems_is_each_of_them():
    losses = np.stack([noisy(1), noisy(2)], axis=1)
    starts = np.broadcast_to([1.0, 0.0, 1.0], (2, 1, 3))
    together = multistart_fit(decay, starts, T, losses, data_axes=(None, 1))
    assert together.params.shape == (2, 3)
    for column, params in zip(losses.T, together.params, strict=True):
        alone = multistart_fit(decay, starts[0], T, column)
        np.testing.assert_allclose(alone.params, params, atol=1e-8)  # stops at 1e-13 of the cost


def test_seven_parameters():
    x = np.linspace(-1, 1, 20)
    planted = np.arange(1.0, 8.0)
    y = (x[:, None] ** np.arange(7)[None, :]) @ planted
    np.testing.assert_allclose(
        multistart_fit(seven, np.zeros((1, 7)), x, y).params, planted, atol=1e-6
    )  # the condition of J^T J is 1e5


def test_the_second_call_compiles_nothing_and_the_setting_outside_does_not_matter():
    multistart_fit(line, np.zeros((1, 2)), T, 1 + T)
    with jax.log_compiles(False), jax.enable_x64(False):
        traced = []

        def counting(params, x, y):
            traced.append(1)
            return line(params, x, y)

        for huber in (None, 0.1, None):
            fit = multistart_fit(counting, np.zeros((1, 2)), T, 1 + 2 * T, huber=huber)
            calls = len(traced)
            assert fit.params.dtype == np.float64
        fit = multistart_fit(counting, np.ones((1, 2)), T, 5 - T)
        assert len(traced) == calls
        np.testing.assert_allclose(fit.params, [5, -1], atol=1e-9)


@pytest.mark.parametrize(
    ("starts", "huber", "message"),
    [
        (np.zeros(2), None, r"starts must be \[starts, d\] or .*; got shape \(2,\)"),
        (np.zeros((0, 2)), None, r"got shape \(0, 2\)"),
        (np.zeros((1, 2)), 0.0, "huber must be positive; got 0.0"),
        (np.zeros((1, 2)), float("nan"), "huber must be positive; got nan"),
    ],
)
def test_settings_out_of_range_are_refused(starts, huber, message):
    with pytest.raises(ValueError, match=message):
        multistart_fit(line, starts, T, T, huber=huber)
