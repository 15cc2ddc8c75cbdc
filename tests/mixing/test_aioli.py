"""Aioli as a state machine: what it asks for, in which order, and what it makes of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jlab.mixing import UNTIL_THE_END, Observation, aioli, released_settings
from tests.mixing.worlds import World, walk, with_order

SMALL = {"update_steps": 20, "sweeps": 2, "probe_steps": 2, "one_hot_factor": 0.75}
UNEQUAL = World(np.array([[1.0, 0.2], [0.5, 0.3]]), rate=0.01)


@pytest.fixture(autouse=True)
def float64():
    """As the training loop runs a mixer."""
    with jax.enable_x64(True):
        yield


def run(mixer, plans, world=UNEQUAL, **given):
    return walk(mixer, world, plans, **given)


def test_a_round_is_a_measurement_the_probes_and_the_rest():
    # 2 groups x 2 sweeps x 2 steps = 8 steps of probes, 20 - 8 = 12 for the rest.
    _, path = run(aioli(**SMALL), 1 + 2 * 5, order=[1, 0, 0, 1])
    np.testing.assert_array_equal(path.plans.steps, [0] + 2 * [2, 2, 2, 2, 12])
    probed = path.plans.proportions[1:5]
    np.testing.assert_array_equal(probed, [[0.25, 0.75], [0.75, 0.25], [0.75, 0.25], [0.25, 0.75]])
    learned = path.metrics["mixing/proportions"][4]
    np.testing.assert_array_equal(path.plans.proportions[5], learned)
    assert learned[0] > 0.5  # the first group helps both losses more
    assert path.plans.evaluate.all()
    assert (path.plans.loss_weights == 1).all()
    expected = [False] * 4 + [True] + [False] * 4 + [True] + [False]
    np.testing.assert_array_equal(path.metrics["mixing/round_learned"], expected)
    np.testing.assert_array_equal(path.metrics["mixing/round"], [0] * 4 + [1] * 5 + [2] * 2)


def test_every_round_draws_a_new_order_of_probes():
    mixer = aioli(update_steps=20, sweeps=8, probe_steps=1, one_hot_factor=1.0)
    _, path = run(mixer, 1 + 2 * 17)
    probed = np.asarray(path.plans.proportions[:, 0])
    assert (probed[1:17] != probed[18:34]).any()
    other_seed = np.asarray(run(mixer, 17, seed=1)[1].plans.proportions[:, 0])
    assert (probed[1:17] != other_seed[1:17]).any()


@pytest.mark.parametrize(
    ("prior_steps", "first_rest"),
    [
        (40, 12),  # whole rounds: 20 - 8
        (5, 7),  # 5 + 8 + 7 ends at step 20
        (15, 17),  # the probes pass step 20: 15 + 8 + 17 ends at step 40
    ],
)
def test_a_prior_trains_first_and_rounds_end_at_multiples_of_their_length(prior_steps, first_rest):
    mixer = aioli(**SMALL, prior=(0.9, 0.1), prior_steps=prior_steps)
    _, path = run(mixer, 2 + 2 * 5)  # the prior, then a measurement before the first probe
    np.testing.assert_array_equal(path.plans.proportions[0], [0.9, 0.1])
    steps = path.plans.steps
    assert (steps[0], steps[1], steps[6], steps[11]) == (prior_steps, 0, first_rest, 12)
    # The first step starts from uniform, not from the prior: one step of 0.2 moves it by < 0.05.
    np.testing.assert_allclose(path.metrics["mixing/proportions"][5], [0.5, 0.5], atol=0.05)
    np.testing.assert_array_equal(mixer.result(mixer.init(jax.random.key(0), 2)), [0.9, 0.1])


def test_the_static_ablation_learns_once_and_keeps_to_it():
    mixer = aioli(**SMALL, static=True)
    state, path = run(mixer, 5)
    last = mixer.plan(state)
    assert last.steps == UNTIL_THE_END
    assert not last.evaluate
    np.testing.assert_array_equal(last.proportions, path.metrics["mixing/proportions"][-1])


def test_the_accumulating_and_the_ema_form_agree_in_the_first_round_only():
    first = run(aioli(**SMALL), 11)[1].metrics["mixing/proportions"]
    second = run(aioli(**SMALL, accumulate=False, ema=0.3), 11)[1].metrics["mixing/proportions"]
    np.testing.assert_allclose(first[:9], second[:9], rtol=1e-14)  # through round one
    assert (abs(first[9:] - second[9:]) > 1e-3).all()


def test_the_released_form_cannot_leave_uniform_by_more_than_its_learning_rate():
    settings = released_settings(2)
    _, path = run(aioli(settings), 1 + 5 * 9, World(np.array([[9.0, 0], [9, 0]]), rate=0.001))
    p = np.asarray(path.metrics["mixing/proportions"])
    assert (p.max(1) / p.min(1)).max() <= np.exp(settings.learning_rate) * (1 + 1e-12)


def test_the_solve_uses_the_proportions_that_were_drawn():
    """Shares that the probes did not ask for, in a linear world: its matrix still comes out."""
    mixer = aioli(update_steps=8, sweeps=2, probe_steps=2, one_hot_factor=0.75)
    A, order = np.array([[0.4, 0.1], [0.2, 0.3]]), jnp.array([1, 0, 0, 1], jnp.int32)
    state, losses = mixer.init(jax.random.key(0), 2), np.array([9.0, 9.0])

    def probe(state, losses, counts):
        losses = losses - A @ (counts / max(counts.sum(), 1))
        seen = Observation(np.int32(0), np.float64(0), np.asarray(counts, np.float64), losses)
        return *mixer.update(state, seen), losses

    for drawn in ([[7, 1], [3, 5]], [[6, 2], [0, 8]]):  # a round starts its count afresh
        state, _, losses = probe(state, losses, np.zeros(2))
        state = with_order(state, order)
        for group in order:
            state, metrics, losses = probe(state, losses, np.array(drawn[group]))
        np.testing.assert_allclose(metrics["mixing/matrix"], A, atol=1e-13)  # losses near 9


def test_an_objective_turns_the_mixture_to_the_losses_it_names():
    world = World(np.array([[2.0, 0.1], [0.3, 1.0]]), rate=0.01)
    one = run(aioli(**SMALL, objective=(0.0, 1.0)), 5, world)
    A, used = one[0].estimator.matrix, one[1].metrics["mixing/matrix_used"][-1]
    np.testing.assert_allclose(used, A[1:] / A[1:].sum(), rtol=1e-12)  # the row of the second loss
    assert one[1].metrics["mixing/proportions"][-1, 1] > 0.51
    # Equal weights are the plain sum over losses, when no normalisation is in the way.
    plain = run(aioli(**SMALL, normalize=False), 5)[1].metrics["mixing/proportions"]
    weighted = run(aioli(**SMALL, normalize=False, objective=(1.0, 1.0)), 5)[1].metrics
    np.testing.assert_allclose(weighted["mixing/proportions"], plain, rtol=1e-13)


def test_out_of_domain_losses_may_be_fewer_than_the_groups():
    mixer = aioli(**SMALL, objective=(1.0,))
    state = mixer.init(jax.random.key(0), 2)
    for k in range(5):
        seen = Observation(jnp.int32(0), jnp.zeros(()), jnp.zeros(2), jnp.array([5.0 - k]))
        state, metrics = mixer.update(state, seen)
    assert metrics["mixing/matrix"].shape == (1, 2)
    np.testing.assert_allclose(mixer.result(state), [0.5, 0.5], rtol=1e-14)  # equal falls


def test_floors_and_caps_hold_in_every_round():
    world = World(np.array([[1.0, 0.0], [1.0, 0.0]]), rate=0.01)
    settings = SMALL | {"learning_rate": 2.0}
    free, floored, capped = (
        np.asarray(run(aioli(**settings, **bounds), 21, world)[1].metrics["mixing/proportions"])
        for bounds in ({}, {"floor": 0.2}, {"cap": 0.7})
    )
    assert free.min() < 0.01
    np.testing.assert_allclose(floored[-1], [0.8, 0.2], rtol=1e-12)
    np.testing.assert_allclose(capped[-1], [0.7, 0.3], rtol=1e-12)


def test_the_diagonal_ablation_sees_own_effects_only():
    _, path = run(aioli(**SMALL, diagonal=True), 5)
    A = np.asarray(path.metrics["mixing/matrix"][-1])
    assert A[0, 1] == A[1, 0] == 0
    assert A[0, 0] > A[1, 1] > 0


def test_a_run_cut_anywhere_and_continued_from_its_state_is_the_same_run():
    mixer, plans = aioli(**SMALL), 11
    update = jax.jit(mixer.update)
    losses = np.random.default_rng(0).uniform(3, 5, (plans, 2))

    def go(state, start):
        for k in range(start, plans):
            counts = np.full(2, 8.0)
            state, _ = update(state, Observation(np.int32(k), np.float64(0), counts, losses[k]))
            states.append(jax.tree.map(np.asarray, state))
        return states[-1]

    states = []
    whole = go(mixer.init(jax.random.key(0), 2), 0)
    for cut, saved in enumerate(list(states[:-1]), start=1):
        jax.tree.map(np.testing.assert_array_equal, go(saved, cut), whole)
