"""A world whose matrix is known: each step, L_i <- L_i - r (A p)_i (L_i - L_inf)."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jlab.mixing import Mixer, Observation

# These programs are small and run a few times: compiling takes longer than running.
jit_in_haste = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


class World(NamedTuple):
    matrix: np.ndarray  # A[i, j] >= 0: how fast training on group j brings loss i down
    start: float = 5.0  # every loss at the beginning
    floor: float = 1.0  # L_inf, where training can bring it
    rate: float = 0.002  # r
    noise: float = 0.0  # standard deviation of one evaluation


class Path(NamedTuple):
    losses: jax.Array  # [plans, m], without noise, after each plan
    plans: object  # Plan, stacked
    metrics: dict  # stacked


def live(mixer: Mixer, world: World, plans: int, key: jax.Array) -> tuple[object, Path]:
    """Follow `plans` plans of a mixer through the world; pure, so that seeds are a vmap."""
    carry = beginning(mixer, world, key)
    keys = jax.random.split(key, plans)
    (state, *_), path = jax.lax.scan(partial(follow, mixer, world), carry, keys)
    return state, path


def beginning(mixer: Mixer, world: World, key: jax.Array) -> tuple:
    """State, losses and step before the first plan."""
    m = len(world.matrix)
    return mixer.init(key, m), jnp.full(m, world.start), jnp.int32(0)


def with_order(state: object, order) -> object:
    """A state whose current round probes the groups in another order."""
    if hasattr(state, "second"):
        return state._replace(second=with_order(state.second, order))
    probes = state.estimator._replace(order=jnp.asarray(order, jnp.int32))
    return state._replace(estimator=probes)


def walk(mixer: Mixer, world: World, plans: int, order=None, seed: int = 0) -> tuple[object, Path]:
    """The same without a compiled loop, which is quicker for a few plans of many mixers.

    `order` replaces the random order of the probes of the first round.
    """
    key = jax.random.key(seed)
    carry = beginning(mixer, world, key)
    if order is not None:
        carry = with_order(carry[0], order), *carry[1:]
    steps = []
    for _ in range(plans):
        carry, step = follow(mixer, world, carry, key)
        steps.append(step)
    return carry[0], jax.tree.map(lambda *leaves: np.stack(leaves), *steps)


def follow(mixer: Mixer, world: World, carry: tuple, key: jax.Array) -> tuple[tuple, Path]:
    """One plan: train on it, evaluate, update."""
    state, losses, step = carry
    plan = mixer.plan(state)
    step = step + plan.steps
    pull = world.rate * (world.matrix * plan.proportions[None, :]).sum(1)
    losses = world.floor + (losses - world.floor) * (1 - pull) ** plan.steps
    seen = losses
    if world.noise:
        seen = losses + world.noise * jax.random.normal(key, losses.shape)
    counts = 8 * plan.steps * plan.proportions
    state, metrics = mixer.update(state, Observation(step, jnp.zeros(()), counts, seen, seen))
    return (state, losses, step), Path(losses, plan, metrics)
