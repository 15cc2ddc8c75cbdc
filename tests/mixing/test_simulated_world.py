"""Aioli where the truth is known: its matrix converges to it, and its mixture pays."""

from functools import partial

import jax
import numpy as np

from jlab.mixing import aioli
from tests.mixing.strategies import in_float64
from tests.mixing.worlds import World, jit_in_haste, live

# The first group teaches all, the second only itself, the third itself and a little the first.
ASYMMETRIC = np.array([[1.0, 0.1, 0.4], [0.8, 0.5, 0.0], [0.9, 0.0, 0.6]])
SEEDS = 16


def cosine_to_the_truth(sweeps: int) -> np.ndarray:
    """Per seed, the cosine between the estimated and the true effective matrix of one round."""
    world = World(ASYMMETRIC, noise=0.007)
    probes = 3 * sweeps
    mixer = aioli(update_steps=4 * probes, sweeps=sweeps, probe_steps=4, one_hot_factor=0.625)
    run = jit_in_haste(jax.vmap(partial(live, mixer, world, probes + 1)))
    state, path = run(jax.random.split(jax.random.key(7), SEEDS))
    # A probe lowers loss i by 4 r A[i, j] (L_i - L_inf): the mean over the round is what is sought.
    room = np.asarray(path.losses - world.floor).mean(1)
    truth = ASYMMETRIC[None] * room[:, :, None]
    found = np.asarray(state.estimator.matrix)
    norms = np.linalg.norm(found, axis=(1, 2)) * np.linalg.norm(truth, axis=(1, 2))
    return (found * truth).sum((1, 2)) / norms


@in_float64
def test_the_estimate_reaches_the_true_matrix_as_sweeps_grow():
    """A probe moves a loss by 0.01 to 0.03, an evaluation errs by 0.007: sweeps average it out."""
    few, some, many = (cosine_to_the_truth(sweeps) for sweeps in (1, 8, 64))
    assert few.mean() < some.mean() < many.mean()
    assert few.mean() < 0.85  # one sweep does not do: the test has something to show
    assert many.min() > 0.95, (few, some, many)  # every seed


@in_float64
def test_learned_proportions_beat_stratified_when_benefits_are_unequal():
    world, rounds = World(ASYMMETRIC, noise=0.007), 10
    mixer = aioli(update_steps=100, sweeps=4, probe_steps=4, learning_rate=0.5)
    run = jit_in_haste(jax.vmap(partial(live, mixer, world, 1 + rounds * (12 + 1))))
    _, path = run(jax.random.split(jax.random.key(3), SEEDS))
    np.testing.assert_array_equal(path.plans.steps.sum(1), 100 * rounds)
    learned = np.asarray(path.losses)[:, -1].mean(1)
    pull = world.rate * ASYMMETRIC.mean(1)  # stratified, in closed form
    even = np.mean(world.floor + (world.start - world.floor) * (1 - pull) ** (100 * rounds))
    # Nearly half of the steps are probes, which stay near uniform, and the mixture moves by at most
    # exp(0.5/3) a round: of the 0.9 nats to be had (all on the first group) it gets about 0.12.
    assert learned.mean() < even - 0.1, (learned, even)
    assert learned.max() < even, (learned, even)  # every seed
