"""Skill-It, DoReMi, DoGE and ODM: updates by hand, and what they refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jlab.mixing import (
    Observation,
    dml,
    doge,
    doremi,
    grid_search,
    learn_graph,
    odm,
    regmix,
    skillit,
    skillit_static,
)
from jlab.mixing.odm import exploration
from jlab.training.mixer import GroupGradients
from tests.mixing.worlds import World, walk


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def observe(step, **fields) -> Observation:
    return Observation(jnp.int32(step), jnp.float64(0.1), jnp.ones(2), **fields)


def test_skillit_by_hand():
    """G = [[.5, .1], [.2, .4]], w = 2, eta = 1.

    Round 1: every loss counts 1, p ~ exp(.6, .6): uniform. Losses measured at 0 and 4 (U = 8, every
    4 steps) are (3, 5) and (2, 4): their sum is (5, 9), so p ~ exp(.5 5 + .1 9, .2 5 + .4 9).
    """
    mixer = skillit(
        [[0.5, 0.1], [0.2, 0.4]], learning_rate=1.0, window=2, update_steps=8, evaluate_every=4
    )
    state = mixer.init(jax.random.key(0), 2)
    losses = {0: [3.0, 5.0], 4: [2.0, 4.0], 8: [1.0, 1.0]}
    step = 0
    for expected_steps in (0, 4, 4):
        plan = mixer.plan(state)
        assert int(plan.steps) == expected_steps
        assert bool(plan.evaluate)
        step += expected_steps
        seen = observe(step, eval_loss=jnp.array(losses[step]))
        state, metrics = mixer.update(state, seen)
        if step < 8:
            np.testing.assert_allclose(mixer.result(state), [0.5, 0.5], rtol=1e-15)
    p = np.asarray(metrics["mixing/proportions"])
    np.testing.assert_allclose(np.log(p[0] / p[1]), 3.4 - 4.6, rtol=1e-12)


def test_an_edge_of_exactly_one_counts_half_off_the_diagonal():
    one = skillit_static([[1.0, 1.0], [0.0, 1.0]], learning_rate=1.0)
    p = one.result(one.init(jax.random.key(0), 2))
    np.testing.assert_allclose(np.log(p[0] / p[1]), 1.5 - 1.0, rtol=1e-12)


def test_without_a_graph_skillit_follows_the_losses():
    world = World(np.array([[1.0, 0.0], [0.0, 0.2]]), rate=0.02)
    _, path = walk(skillit(update_steps=10), world, 4)
    assert path.metrics["mixing/proportions"][-1, 1] > 0.5  # the loss that stays high


def test_a_graph_is_the_relative_fall_of_each_loss():
    graph = learn_graph([4.0, 2.0], [[2.0, 2.0], [5.0, 1.0]])
    np.testing.assert_array_equal(graph, [[0.5, 0.0], [-0.25, 0.5]])
    with pytest.raises(ValueError, match=r"end must have one row per run .* 3 losses"):
        learn_graph([1.0, 2.0, 3.0], [[1.0, 2.0]])
    with pytest.raises(ValueError, match="start must be positive"):
        learn_graph([0.0, 2.0], [[1.0, 2.0]])


def test_doremi_by_hand():
    """Excess (2 - 1.5, max(1 - 3, 0)) = (.5, 0), mu = 2, c = .1: p ~ exp(1, 0), then .9 p + .05."""
    mixer = doremi(2.0, smoothing=0.1)
    state = mixer.init(jax.random.key(0), 2)
    seen = observe(0, train_loss=jnp.array([2.0, 1.0]), reference_loss=jnp.array([1.5, 3.0]))
    state, metrics = mixer.update(state, seen)
    expected = 0.9 * np.exp([1, 0]) / np.exp([1, 0]).sum() + 0.05
    np.testing.assert_allclose(metrics["mixing/proportions"], expected, rtol=1e-12)
    plan = mixer.plan(state)
    np.testing.assert_allclose(plan.loss_weights, expected, rtol=1e-12)
    np.testing.assert_allclose(plan.proportions, [0.5, 0.5], rtol=1e-15)
    # A group that is absent keeps its score of .5: one more step of the same size.
    absent = observe(1, train_loss=jnp.array([np.nan, 1.0]), reference_loss=jnp.array([0.0, 3.0]))
    _, metrics = mixer.update(state, absent)
    again = expected * np.exp([1, 0])
    again = 0.9 * again / again.sum() + 0.05
    np.testing.assert_allclose(metrics["mixing/proportions"], again, rtol=1e-12)


def test_doge_by_hand():
    """lr .1, products (.4, -.2), norms (1, .5): s = .1 (.4, 0) / .75, clipped at 0; mu = .02."""
    mixer = doge(0.02)
    state = mixer.init(jax.random.key(0), 2)
    compared = GroupGradients(jnp.array([[0.4, -0.2]]), jnp.array([1.0, 0.5]))
    _, metrics = mixer.update(state, observe(0, gradients=compared))
    p = np.asarray(metrics["mixing/proportions"])
    np.testing.assert_allclose(np.log(p[0] / p[1]), 0.1 * 0.4 / 0.75 / 0.02, rtol=1e-5)  # 1e-6 norm


def test_doge_averages_the_matrix_over_the_evaluated_groups():
    compared = GroupGradients(jnp.array([[0.4, 0.1], [0.0, 0.3]]), jnp.ones(2))
    gains = {}
    for axis in ("evaluated", "trained"):
        mixer = doge(1.0, per_group=True, average_over=axis)
        state, _ = mixer.update(mixer.init(jax.random.key(0), 2), observe(0, gradients=compared))
        gains[axis] = np.asarray(state.estimator.matrix[0])
    # <v_i, g_j>: means over i of the columns j; released: means over j of the rows i.
    np.testing.assert_allclose(gains["evaluated"], [0.02, 0.02], rtol=1e-5)
    np.testing.assert_allclose(gains["trained"], [0.025, 0.015], rtol=1e-5)


def test_odm_by_hand():
    """m = 2, a = .5, losses (3, 1) at p = (1/2, 1/2): Rhat = .5 (6, 2) = (3, 1).

    The first update uses e_0 = 1/2 in the exponent: softmax(1.5, .5); e_1 = 1/2, which is below
    sqrt(ln 2 / 2), explores with all mass, so p stays uniform. The second: e_1 = 1/2 in the
    exponent, e_2 = sqrt(ln 2 / 4) = .416.
    """
    mixer = odm(memory=0.5)
    state = mixer.init(jax.random.key(0), 2)
    state, metrics = mixer.update(state, observe(1, train_loss=jnp.array([3.0, 1.0])))
    np.testing.assert_allclose(np.diag(metrics["mixing/matrix"]), [3, 1], rtol=1e-12)
    np.testing.assert_allclose(metrics["mixing/proportions"], [0.5, 0.5], rtol=1e-12)
    state, metrics = mixer.update(state, observe(2, train_loss=jnp.array([3.0, np.nan])))
    np.testing.assert_allclose(np.diag(metrics["mixing/matrix"]), [4.5, 1], rtol=1e-12)
    e = np.sqrt(np.log(2) / 4)
    share = 1 / (1 + np.exp(0.5 * (1 - 4.5)))
    expected = (1 - 2 * e) * np.array([share, 1 - share]) + e
    np.testing.assert_allclose(metrics["mixing/proportions"], expected, rtol=1e-12)
    assert float(exploration(0, 4)) == 0.25
    assert int(mixer.plan(state).steps) == 1


RUNS = np.array([[0.8, 0.2], [0.5, 0.5], [0.2, 0.8], [0.35, 0.65], [0.65, 0.35]])


def planted(p: np.ndarray) -> np.ndarray:
    """Two log-linear losses whose mean is smallest at (.4, .6)."""
    return np.stack([1 + 0.6 * np.exp(-2 * p[:, 0]), 1 + 0.4 * np.exp(2 * 0.4 - 2 * p[:, 1])], 1)


def result(mixer) -> np.ndarray:
    return np.asarray(mixer.result(mixer.init(jax.random.key(0), 2)))


def test_offline_methods_train_on_what_their_table_says():
    loss = planted(RUNS)
    # d/dp_1 = 0: -1.2 exp(-2 p_1) + .8 exp(.8 - 2 + 2 p_1) = 0, so 4 p_1 = ln 1.5 + 1.2.
    best = (np.log(1.5) + 1.2) / 4
    np.testing.assert_allclose(result(dml(RUNS, loss)), [best, 1 - best], atol=1e-5)
    np.testing.assert_array_equal(result(grid_search(RUNS, loss)), RUNS[loss.mean(1).argmin()])
    capped = result(dml(RUNS, loss, cap=np.array([0.3, 1.0])))
    np.testing.assert_allclose(capped, [0.3, 0.7], atol=1e-9)
    # A line through all runs falls with the first share less than with the second, so the best of
    # the sampled mixtures have nearly nothing of the first; a floor is kept.
    assert result(regmix(RUNS, loss, regressor="linear"))[0] < 0.01
    floored = result(regmix(RUNS, loss, regressor="linear", floor=0.2))
    np.testing.assert_allclose(floored, [0.2, 0.8], atol=1e-3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: skillit([[1.0, np.nan]]), "graph must be a matrix of finite edges"),
        (lambda: skillit(np.eye(3)).init(jax.random.key(0), 2), "graph must have a row per group"),
        (lambda: skillit(window=0), "window must be at least 1; got 0"),
        (lambda: skillit(update_steps=0), "update_steps must be at least 1; got 0"),
        (lambda: doremi(smoothing=2.0), r"smoothing must be in \[0, 1\]; got 2.0"),
        (lambda: doge(0.0), "temperature must be at least 1e-30 and finite; got 0.0"),
        (lambda: doge(average_over="x"), "average_over must be evaluated or trained; got 'x'"),
        (lambda: odm(memory=1.0), r"memory must be in \[0, 1\); got 1.0"),
        (lambda: odm(update_steps=0), "update_steps must be at least 1; got 0"),
        (
            lambda: regmix(RUNS, planted(RUNS), regressor="tree"),
            "regressor must be lightgbm or lin",
        ),
    ],
)
def test_settings_out_of_range_are_refused_by_name(make, message):
    with pytest.raises(ValueError, match=message):
        make()
