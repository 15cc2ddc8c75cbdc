"""Composed methods: estimator, law and solver change places, whatever the matrix."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jlab.mixing import (
    Estimator,
    Observation,
    direct_solver,
    exponentiated_gradient,
    exponentiated_gradient_solver,
    interleaved_probes,
    linear,
    log_linear,
    online,
    static,
)
from jlab.mixing.mixer import make_plan
from tests.mixing.strategies import in_float64, problems
from tests.mixing.worlds import World, walk


class Told(NamedTuple):
    matrix: jax.Array
    round: jax.Array


def told(*matrices) -> Estimator:
    """An estimator that is told its matrix, one per round."""
    answers = jnp.stack([jnp.asarray(matrix, jnp.result_type(float)) for matrix in matrices])
    return Estimator(
        init=lambda key, m: Told(jnp.zeros_like(answers[0]), jnp.int32(0)),
        plan=lambda state, p: make_plan(p, 1, evaluate=False),
        update=lambda state, seen, p: (
            Told(answers[state.round], state.round + 1),
            jnp.ones((), bool),
        ),
    )


def composed(**options):
    """The state of a method with two losses and two groups."""
    mixer = online(told(np.eye(2)), exponentiated_gradient_solver(), **options)
    return mixer.init(jax.random.key(0), 2)


def follow(mixer, rounds: int, m: int) -> tuple[object, list[np.ndarray]]:
    """The state after some rounds, and the proportions of each."""
    state, path = mixer.init(jax.random.key(0), m), []
    for step in range(rounds):
        seen = Observation(jnp.int32(step), jnp.zeros(()), jnp.zeros(m))
        state, metrics = mixer.update(state, seen)
        path.append(np.asarray(metrics["mixing/proportions"]))
    return state, path


@in_float64
@given(problems())
def test_the_linear_law_and_one_gradient_step_are_exponentiated_gradient(problem):
    _, A, _ = problem
    m = len(A)
    _, path = follow(online(told(A, -2 * A), exponentiated_gradient_solver(0.3)), 2, m)
    first = exponentiated_gradient(jnp.full(m, 1 / m), A, 0.3)
    np.testing.assert_allclose(path[0], first, rtol=1e-12)  # the same sums in another order
    np.testing.assert_allclose(path[1], exponentiated_gradient(first, -2 * A, 0.3), rtol=1e-10)


@in_float64
@given(problems(), st.floats(0, 1), st.sampled_from([0.0, 0.1]), st.sampled_from([0.6, 1.0]))
def test_proportions_stay_on_the_simplex_and_within_bounds(problem, smoothing, floor, cap):
    _, A, _ = problem
    solver = exponentiated_gradient_solver(5.0, smoothing=smoothing, floor=floor, cap=cap)
    for p in follow(online(told(A, A, A), solver, log_linear), 3, len(A))[1]:
        assert p.sum() == pytest.approx(1, abs=1e-12)
        assert p.min() >= floor * (1 - 1e-12)
        assert p.max() <= cap * (1 + 1e-12)


@pytest.mark.parametrize("law", [linear, log_linear])
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("benefit", [0.0, 0.7])
@in_float64
def test_equal_benefits_and_none_at_all_leave_the_proportions(law, normalize, benefit):
    """A zero matrix is a no-op, and so is one whose columns are alike."""
    A = np.outer([1.0, 2.0, 0.5], np.full(3, benefit))
    solver = exponentiated_gradient_solver(2.0)
    start = np.array([[0.0, 1.0, 0.0]])  # a first round that leaves uniform
    _, path = follow(
        online(told(np.tile(start, (3, 1)), A), solver, law, normalize=normalize), 2, 3
    )
    assert path[0].max() > 0.4
    np.testing.assert_allclose(path[1], path[0], rtol=1e-12)


@in_float64
def test_the_log_linear_law_discounts_what_is_already_gained():
    """Two groups, A = diag(a, b), p = (1/2, 1/2): gain_1 = a exp(-a/2), gain_2 = b exp(-b/2).

    With a = 2, b = 4: 2 / e against 4 / e^2, so the first group gains more, though a < b.
    """
    A = np.diag([2.0, 4.0])
    _, [p] = follow(online(told(A), exponentiated_gradient_solver(1.0), log_linear), 1, 2)
    gain = np.array([2 / np.e, 4 / np.e**2])
    np.testing.assert_allclose(np.log(p[0] / p[1]), gain[0] - gain[1], rtol=1e-12)
    _, [p] = follow(online(told(A), exponentiated_gradient_solver(1.0), linear), 1, 2)
    np.testing.assert_allclose(np.log(p[0] / p[1]), 2 - 4, rtol=1e-12)


@in_float64
def test_the_direct_solver_goes_to_the_vertex_that_bounds_allow():
    A = np.array([[0.1, 0.5, 0.3]])
    _, [p] = follow(online(told(A), direct_solver(floor=0.1, cap=0.7)), 1, 3)
    np.testing.assert_allclose(p, [0.1, 0.7, 0.2], atol=1e-12)
    _, [p] = follow(online(told(np.diag([3.0, 3.0, 3.0])), direct_solver(), log_linear), 1, 3)
    np.testing.assert_allclose(p, [1 / 3] * 3, atol=1e-7)  # where a quadratic minimum is flat


@in_float64
def test_the_average_is_that_of_all_rounds():
    A = np.diag([1.0, 0.0])
    averaging = online(told(A, A, A), exponentiated_gradient_solver(1.0), average=True)
    state = averaging.init(jax.random.key(0), 2)
    np.testing.assert_allclose(averaging.result(state), [0.5, 0.5], rtol=1e-15)
    state, path = follow(averaging, 3, 2)
    np.testing.assert_allclose(averaging.result(state), np.mean(path, 0), rtol=1e-14)
    last = online(told(A, A, A), exponentiated_gradient_solver(1.0))
    np.testing.assert_allclose(last.result(state), path[-1], rtol=1e-15)


def test_the_average_of_many_rounds_is_still_on_the_simplex():
    """In float32, where a sum of 1e5 rounds has lost digits; `static` takes it."""
    averaging = online(told(np.zeros((1, 7))), exponentiated_gradient_solver(1.0), average=True)
    state = averaging.init(jax.random.key(0), 7)
    rounds = 100_000
    p = np.random.default_rng(0).dirichlet(np.ones(7)).astype(np.float32)
    total = jax.lax.fori_loop(0, rounds, lambda _, total: total + p, jnp.zeros(7))
    state = state._replace(total=total, round=jnp.int32(rounds))
    mean = averaging.result(state)
    # 1e5 float32 additions lose digits of the shares, but not their sum, which `static` checks.
    np.testing.assert_allclose(static(mean).result(static(mean).init(None, 7)), p, rtol=1e-2)


@in_float64
def test_the_exponential_average_weighs_the_older_matrices():
    """E = A_1, then (1 - 0.25) A_2 + 0.25 A_1; the step is from uniform: p ~ exp(E)."""
    first, second = np.array([[1.0, 0.0]]), np.array([[0.0, 2.0]])
    solver = exponentiated_gradient_solver(1.0, accumulate=False)
    _, path = follow(online(told(first, second), solver, ema=0.25), 2, 2)
    np.testing.assert_allclose(np.log(path[1][0] / path[1][1]), 0.25 - 1.5, rtol=1e-12)


@in_float64
def test_rates_may_follow_the_round():
    """eta = 1, 2, 3: three rounds of gain (1, 0) from the previous p add up to 6."""
    solver = exponentiated_gradient_solver(lambda t, m: (t + 1) * m / 2)
    A = np.array([[1.0, 0.0]])
    _, path = follow(online(told(A, A, A), solver), 3, 2)
    np.testing.assert_allclose(np.log(path[2][0] / path[2][1]), 6, rtol=1e-12)


@in_float64
def test_a_user_can_put_parts_together_that_no_paper_has():
    """Aioli's probes under the direct solver: it goes where training helps most, up to the cap."""
    world = World(np.array([[1.0, 0.1], [0.6, 0.2]]), rate=0.01)
    own = online(interleaved_probes(20, 1, 2, 1.0), direct_solver(cap=0.8), normalize=True)
    state, path = walk(own, world, 4)
    assert path.metrics["mixing/round_learned"].tolist() == [False, False, True, False]
    np.testing.assert_allclose(own.result(state), [0.8, 0.2], atol=1e-9)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: exponentiated_gradient_solver(-1.0), "learning_rate must be finite and not neg"),
        (lambda: exponentiated_gradient_solver(float("inf")), "learning_rate must be finite"),
        (lambda: exponentiated_gradient_solver(smoothing=1.5), r"smoothing must be in \[0, 1\]"),
        (lambda: exponentiated_gradient_solver(floor=0.5).init(3), r"floor must be in \[0, 1/3\]"),
        (lambda: direct_solver(cap=0.2).init(3), r"cap must be in \[1/3, 1\] with 3 groups"),
        (lambda: composed(ema=3.0), r"ema must be in \[0, 1\), or None; got 3.0"),
        (lambda: composed(objective=(0.0, 0.0)), "objective must be weights >= 0, not all 0"),
        (lambda: composed(objective=(1.0,)), "objective must have one weight per evaluated loss"),
        (lambda: interleaved_probes(sweeps=0), "sweeps must be at least 1; got 0"),
        (lambda: interleaved_probes(probe_steps=0), "probe_steps must be at least 1; got 0"),
        (
            lambda: interleaved_probes(10, 2, 2).init(jax.random.key(0), 4),
            "update_steps must be at least 4 groups x 2 sweeps x 2 probe_steps = 16; got 10",
        ),
        (
            lambda: interleaved_probes(90, one_hot_factor=0.2).init(jax.random.key(0), 5),
            r"one_hot_factor must be in \(1/5, 1\] with 5 groups; got 0.2",
        ),
    ],
)
def test_settings_out_of_range_are_refused_by_name(make, message):
    with pytest.raises(ValueError, match=message):
        make()
