"""Fits of mixing laws to runs."""

import jax
import numpy as np
import pytest
import scipy.optimize
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from jlab.mixing.fit_law import fit_linear_law, fit_log_linear_law
from jlab.mixing.law import LinearLaw, LogLinearLaw

RUNS = {2: 9, 3: 12}  # groups -> runs; few sizes: each is one compilation


def mixtures(m: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.ones(m), RUNS[m])


@st.composite
def planted(draw):
    """(a law of two losses, runs, an order of the groups)."""
    m = draw(st.sampled_from(sorted(RUNS)))
    matrix = draw(arrays(np.float64, (2, m), elements=st.floats(-3, 3)))
    floor = draw(arrays(np.float64, 2, elements=st.floats(-2, 3)))
    order = np.array(draw(st.permutations(range(m))))
    return LogLinearLaw(floor, np.ones(2), matrix), mixtures(m), order


@given(planted())
def test_a_planted_log_linear_law_comes_back(case):
    law, p, order = case
    fitted = fit_log_linear_law(p, law.predict(p))
    everywhere = np.random.default_rng(1).dirichlet(np.ones(p.shape[1]), 50)
    span = 1 + np.ptp(law.predict(p))
    # Without noise the fit ends in roundings; unseen mixtures near a corner are extrapolated.
    np.testing.assert_allclose(fitted.predict(p), law.predict(p), rtol=0, atol=1e-6 * span)
    np.testing.assert_allclose(
        fitted.predict(everywhere), law.predict(everywhere), rtol=0, atol=1e-5 * span
    )
    relabelled = fit_log_linear_law(p[:, order], law.predict(p))
    np.testing.assert_allclose(
        relabelled.predict(everywhere[:, order]),
        fitted.predict(everywhere),
        rtol=0,
        atol=1e-5 * span,
    )


@given(planted())
def test_a_planted_linear_law_comes_back_by_every_route(case):
    curved, p, order = case
    start = curved.floor
    law = LinearLaw(start, curved.matrix)
    loss = law.predict(p)
    for fitted in (
        fit_linear_law(p, loss, start=start),
        fit_linear_law(p, loss, start=start, huber=0.02),
    ):
        # The condition number of these mixtures is below 100: 1e-14 of rounding at most.
        np.testing.assert_allclose(fitted.matrix, law.matrix, rtol=0, atol=1e-9)
        np.testing.assert_array_equal(fitted.intercept, start)
    canonical = fit_linear_law(p, loss)
    assert not canonical.intercept.any()
    np.testing.assert_allclose(canonical.matrix, law.matrix - start[:, None], rtol=0, atol=1e-9)
    relabelled = fit_linear_law(p[:, order], loss)
    np.testing.assert_allclose(relabelled.matrix, canonical.matrix[:, order], rtol=0, atol=1e-9)


def noisy(m: int, outliers: int = 0):
    """Runs of a known law with errors of 0.004, some of them 0.3 too high."""
    p, random = mixtures(m), np.random.default_rng(2)
    law = LogLinearLaw(np.array([2.0, 1.0]), np.ones(2), np.linspace(-1, 2, 2 * m).reshape(2, m))
    loss = law.predict(p) + 0.004 * random.normal(size=(len(p), 2))
    loss[:outliers] += 0.3
    return p, loss, law


def test_huber_minimises_the_huber_loss_itself_and_shrugs_off_outliers():
    p, loss, law = noisy(3, outliers=2)
    delta = 0.02
    everywhere = np.random.default_rng(1).dirichlet(np.ones(3), 50)
    fitted = fit_log_linear_law(p, loss, huber=delta)
    squared = fit_log_linear_law(p, loss)
    errors = [abs(f.predict(everywhere) - law.predict(everywhere)).max() for f in (fitted, squared)]
    assert errors[0] < 0.05 < 0.1 < errors[1]
    for i in range(2):
        theirs = scipy.optimize.least_squares(
            lambda x, i=i: x[0] + np.exp(-p @ x[1:]) - loss[:, i],
            np.append(law.floor[i], law.matrix[i]),
            loss="huber",
            f_scale=delta,
        )
        residual = abs(fitted.predict(p)[:, i] - loss[:, i])
        cost = np.where(residual <= delta, residual**2 / 2, delta * (residual - delta / 2)).sum()
        assert cost <= theirs.cost * (1 + 1e-9)  # rounding of the sum
    linear = fit_linear_law(p, loss, huber=delta)
    theirs = scipy.optimize.least_squares(
        lambda x: -p @ x - loss[:, 0],
        linear.matrix[0] * 0.9,
        loss="huber",
        f_scale=delta,
        xtol=1e-12,
        ftol=1e-12,
        gtol=1e-12,
    )
    np.testing.assert_allclose(linear.matrix[0], theirs.x, atol=1e-4)  # theirs stops early


def test_ridge_shrinks_the_groups_towards_each_other_but_not_the_level():
    p, loss, _ = noisy(3)
    for fit in (fit_linear_law, fit_log_linear_law):
        spreads = [np.ptp(fit(p, loss, ridge=r).matrix, axis=1).max() for r in (0, 0.1, 10.0)]
        assert spreads[0] > spreads[1] > spreads[2]
        strong = fit(p, loss, ridge=1e4)
        # All groups worth the same: every mixture is predicted the mean, to losses over 1e4.
        mean = np.broadcast_to(loss.mean(0), loss.shape)
        np.testing.assert_allclose(strong.predict(p), mean, rtol=0, atol=1e-3)
    # Two runs cannot determine three groups; with a ridge they have an answer.
    assert np.isfinite(fit_linear_law(p[:2], loss[:2], ridge=0.1).matrix).all()
    assert np.isfinite(fit_log_linear_law(p[:2], loss[:2], ridge=0.1).matrix).all()


def test_joint_and_separate_fits_agree_and_starts_can_be_a_law():
    p, loss, _ = noisy(3)
    separate = fit_log_linear_law(p, loss)
    for other in (
        fit_log_linear_law(p, loss, joint=True),
        fit_log_linear_law(p, loss, starts=60),
        fit_log_linear_law(p, loss, starts=separate),
    ):
        # The cost is flat to 1e-13 of itself: 1e-7 of residuals near 0.004.
        np.testing.assert_allclose(other.predict(p), separate.predict(p), rtol=0, atol=1e-6)


def test_a_stack_of_tables_gives_a_stack_of_laws():
    p, loss, _ = noisy(3)
    stack = np.stack([loss, loss[::-1], 2 * loss])
    start = np.array([3.0, 2.0])
    for fit in (fit_log_linear_law, lambda p, loss: fit_linear_law(p, loss, start=start)):
        together = fit(p, stack)
        for b in range(3):
            alone = fit(p, stack[b])
            one = type(alone)(*(field[b] for field in together))
            np.testing.assert_allclose(one.predict(p), alone.predict(p), rtol=0, atol=1e-6)


def test_two_groups_in_the_own_share():
    """L = c + exp(k x + b) in the share x of the evaluated group is A = -(k + b, b)."""
    x = np.linspace(0.1, 0.9, 9)
    p = np.stack([x, 1 - x], axis=1)
    law = fit_log_linear_law(p, (2 + np.exp(-3 * x + 0.5))[:, None])
    np.testing.assert_allclose(law.floor, [2], atol=1e-6)
    np.testing.assert_allclose(law.matrix, [[2.5, -0.5]], atol=1e-5)  # without noise
    line = fit_linear_law(p, (3 - 0.2 * x)[:, None])
    np.testing.assert_allclose(line.matrix, [[-2.8, -3.0]], atol=1e-12)


def test_the_second_fit_of_a_shape_compiles_nothing():
    p, loss, _ = noisy(2)
    fit_log_linear_law(p, loss)
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, *_, **__: compiled.append(name) if "compile" in name else None
    )
    try:
        fit_log_linear_law(p[::-1], loss + 1, huber=0.02, ridge=0.1)
    finally:
        jax.monitoring.clear_event_listeners()
    assert compiled == []


def test_constant_losses_are_fitted():
    p, loss, _ = noisy(3)
    for fit in (fit_linear_law, fit_log_linear_law):
        predicted = fit(p, np.full_like(loss, 2.5)).predict(p)
        np.testing.assert_allclose(predicted, 2.5, atol=1e-6)  # exp(-A p) has to become constant


P, LOSS, _ = noisy(3)


def changed(array, place, value):
    array = array.copy()
    array[place] = value
    return array


@pytest.mark.parametrize(
    ("p", "loss", "message"),
    [
        (changed(P, 4, [0.5, 0.5, 0.5]), LOSS, r"p\[4\] must be .* sums to 1.5"),
        (changed(P, 1, [-0.1, 0.6, 0.5]), LOSS, r"p\[1\] must be not negative"),
        (changed(P, (2, 0), np.nan), LOSS, r"p\[2\] must be not negative and sum to 1"),
        (P, changed(LOSS, (7, 1), np.nan), r"loss\[7, 1\] is nan: every run needs"),
        (P, changed(LOSS, (0, 0), np.inf), r"loss\[0, 0\] is inf"),
        (P, LOSS[:-1], r"one row per row of p \(12\); got shape \(11, 2\)"),
        (P, LOSS[:, 0], r"loss must be \[runs, losses\]"),
        (P[0], LOSS, r"p must be \[runs, groups\]"),
        (P[:2], LOSS[:2], "needs runs of at least [34] different mixtures; p has 2"),
        (P[:1].repeat(12, 0), LOSS, r"p has 1 \(in 12 runs\)"),
        (np.stack([P[:, 0], 1 - P[:, 0], 0 * P[:, 0]], 1), LOSS, "p varies in only 2 of 3"),
    ],
)
@pytest.mark.parametrize("fit", [fit_linear_law, fit_log_linear_law])
def test_tables_that_determine_no_law_are_refused(fit, p, loss, message):
    with pytest.raises(ValueError, match=message):
        fit(p, loss)


@pytest.mark.parametrize(
    ("fit", "setting", "message"),
    [
        (fit_linear_law, {"huber": 0.0}, "huber must be positive, or None; got 0.0"),
        (fit_linear_law, {"ridge": -1.0}, "ridge must be finite and not negative; got -1.0"),
        (fit_linear_law, {"start": [1.0]}, r"start must be one finite number per loss \(2\)"),
        (fit_log_linear_law, {"starts": 0}, "starts must be at least 1; got 0"),
        (
            fit_log_linear_law,
            {"starts": LogLinearLaw(np.ones(2), np.ones(2), np.ones((2, 2)))},
            "starts must be a law of 2 losses and 3 groups",
        ),
    ],
)
def test_settings_out_of_range_are_refused(fit, setting, message):
    with pytest.raises(ValueError, match=message):
        fit(P, LOSS, **setting)


def test_tables_rounded_to_three_digits_are_used_as_they_are():
    p = np.round(P, 3)
    p[0, 0] += 0.004
    fitted = fit_linear_law(p, LOSS)
    expected = np.linalg.lstsq(p, -LOSS, rcond=None)[0].T
    np.testing.assert_allclose(fitted.matrix, expected, rtol=1e-9)  # the same least squares
