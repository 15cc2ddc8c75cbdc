"""Aioli: learn the mixture while training, from how the validation losses answer to short probes.

A round of U steps first estimates the matrix A of the linear dynamic law with interleaved probes
(LearnParams, Algorithm 2), then takes one step of exponentiated gradient descent and trains on
the new proportions until the round ends (Algorithm 1). Nothing is undone and no extra run is
needed: probes are training steps too.
Symbols: p -> proportions[m], A -> matrix[n, m] (rows: evaluated, columns: trained), W ->
requested[m, m], eta -> learning_rate, f -> one_hot_factor, U -> update_steps, R -> sweeps, s ->
probe_steps, K = m R -> probes.
Source: Chen et al., "Aioli: A Unified Optimization Framework for Language Model Data Mixing",
ICLR 2025, Algorithms 1 and 2 (arXiv 2411.05735).
"""

from dataclasses import replace
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt32

from jlab.mixing.aioli_config import AioliConfig
from jlab.mixing.egd import keep_within, log_step
from jlab.mixing.learn_params import (
    estimate_matrix,
    normalized,
    probe_order,
    realised_weights,
    smoothed_one_hots,
)
from jlab.mixing.mixer import make_plan
from jlab.training.mixer import UNTIL_THE_END, Mixer, Observation, Plan


class AioliState(NamedTuple):
    """Where the run stands; n evaluated losses, as many as groups without an `objective`."""

    key: UInt32[Array, "2"]  # raw data of the key that orders the probes; never changes
    round: Int[Array, ""]  # how often A has been learned
    probe: Int[Array, ""]  # 0: training on the proportions (at first: the prior); 1..K: that probe
    order: Int[Array, "probes"]  # which group each probe of this round leans on
    losses: Float[Array, "probes+1 n"]  # validation losses before the first probe and after each
    counts: Float[Array, "m m"]  # windows of each group (columns) drawn while probing each (rows)
    matrix: Float[Array, "n m"]  # A of the last finished round, in nats per probe; zeros before
    smoothed: Float[Array, "rows m"]  # exponential average of A as used; zeros before
    log_proportions: Float[Array, "m"]  # log p, normalised; uniform before, whatever the prior


def aioli(config: AioliConfig | None = None, /, **fields: object) -> Mixer:
    """Aioli, with the fields of `AioliConfig` as keyword arguments.

    Rounds end at multiples of `update_steps` of the run, as in the authors' code, so a prior
    phase that is no multiple of it makes the first round shorter, or longer where its probes
    would not fit. With `objective` (out-of-domain targets, or groups that matter more) A is first
    collapsed to the row of gains that the weighted losses have, and `normalize` acts on that row;
    the observed `eval_loss` then has one entry per weight. `floor` and `cap` bound the learned
    proportions, not the probes and not the prior. The metrics are arrays of the same shapes at
    every update: `mixing/proportions`, `mixing/matrix` (A as estimated), `mixing/matrix_used` (A
    as it enters the step), `mixing/round`, and `mixing/round_learned`, true when A and p have
    just been learned.

    Args:
        config: settings to start from, for instance `released_settings(3)`; the paper's where not
            given.
        **fields: any field of `AioliConfig`, over those of `config`.

    Raises:
        ValueError: a setting out of range; at `init`, one that does not fit the number of groups.

    Example:
        >>> mixer = aioli(update_steps=100, sweeps=2, floor=0.05)
        >>> state = mixer.init(jax.random.key(0), 4)
        >>> int(mixer.plan(state).steps)  # the first plan only measures
        0

    Source: Algorithms 1 and 2; restricted setting: Section 6; ablations and objective: Appendix F.
    """
    config = replace(config or AioliConfig(), **fields)

    def init(key: Array, m: int) -> AioliState:
        config.check_groups(m)
        n = m if config.objective is None else len(config.objective)
        rows = n if config.objective is None else 1
        probes = m * config.sweeps
        key, first = jax.random.key_data(key), np.int32(0)
        fresh = AioliState(  # NumPy: eager jax.numpy would compile every line of this
            key=key,
            round=first,
            probe=first,
            order=_order_of_round(key, first, m, config.sweeps),
            losses=np.zeros((probes + 1, n)),
            counts=np.zeros((m, m)),
            matrix=np.zeros((n, m)),
            smoothed=np.zeros((rows, m)),
            log_proportions=np.full(m, -np.log(m)),
        )
        return jax.tree.map(jnp.asarray, fresh)

    def plan(state: AioliState) -> Plan:
        return _plan(config, state)

    def update(state: AioliState, observation: Observation) -> tuple[AioliState, dict]:
        state, learned = _observe(config, state, observation)
        return state, {
            "mixing/proportions": result(state),
            "mixing/matrix": state.matrix,
            "mixing/matrix_used": _used(config, state.matrix),
            "mixing/round": state.round,
            "mixing/round_learned": learned,
        }

    def result(state: AioliState) -> Float[Array, "m"]:
        return jnp.exp(state.log_proportions)

    return Mixer(init, plan, update, result, needs=frozenset({"eval_loss"}))


def _plan(config: AioliConfig, state: AioliState) -> Plan:
    """Algorithm 1: prior, then per round K probes of s steps and the rest of the U steps on p."""
    probes, m = len(state.order), len(state.log_proportions)
    probing = state.probe > 0
    rest = config.update_steps - probes * config.probe_steps
    first_rest = -(config.prior_steps + probes * config.probe_steps) % config.update_steps
    training_steps = jnp.select(
        [state.round == 0, state.round == 1],
        [config.prior_steps, UNTIL_THE_END if config.static else first_rest],
        UNTIL_THE_END if config.static else rest,
    )
    p = jnp.exp(state.log_proportions)
    if config.prior is not None:
        p = jnp.where(state.round == 0, jnp.asarray(config.prior, p.dtype), p)
    one_hot = smoothed_one_hots(m, config.one_hot_factor)[_probed(state)].astype(p.dtype)
    last = config.static & ~probing & (state.round > 0)
    return make_plan(
        proportions=jnp.where(probing, one_hot, p),
        steps=jnp.where(probing, config.probe_steps, training_steps),
        evaluate=~last,
    )


def _observe(
    config: AioliConfig, state: AioliState, observation: Observation
) -> tuple[AioliState, Array]:
    """Enter what came of a plan; after the last probe of a round, learn A and p."""
    probes, m = len(state.order), len(state.log_proportions)
    dtype = state.losses.dtype
    state = state._replace(
        losses=state.losses.at[state.probe].set(observation.eval_loss.astype(dtype)),
        counts=jnp.where(  # the phase before the first probe starts a new round's count
            state.probe > 0,
            state.counts.at[_probed(state)].add(observation.counts.astype(dtype)),
            jnp.zeros_like(state.counts),
        ),
    )
    learned = state.probe == probes
    state = jax.tree.map(
        lambda new, old: jnp.where(learned, new, old), _learn(config, state), state
    )
    started = state.probe == 0
    order = _order_of_round(state.key, state.round, m, config.sweeps)
    return state._replace(
        probe=(state.probe + 1) % (probes + 1),
        order=jnp.where(started & (state.round > 0), order, state.order),
    ), learned


def _learn(config: AioliConfig, state: AioliState) -> AioliState:
    """LearnParams, then one step of exponentiated gradient descent, once all probes are in."""
    requested = smoothed_one_hots(len(state.log_proportions), config.one_hot_factor)
    weights = realised_weights(state.counts, requested.astype(state.counts.dtype))
    A = estimate_matrix(state.losses, state.order, weights, diagonal=config.diagonal)
    used = _used(config, A)
    # E = A in the first round, then (1 - ema) A + ema E; without ema, E = A always.
    ema = jnp.where(state.round == 0, 0.0, config.ema or 0.0).astype(used.dtype)
    smoothed = (1 - ema) * used + ema * state.smoothed
    # p_j ~ exp(z_j), z_j = z_j + eta sum_i A[i, j]; the released form steps from z = 0 every time.
    start = state.log_proportions if config.accumulate else jnp.zeros_like(state.log_proportions)
    log_p = log_step(start, smoothed.sum(0), config.learning_rate)
    if config.floor > 0 or config.cap < 1:
        log_p = keep_within(log_p, config.floor, config.cap)
    return state._replace(round=state.round + 1, matrix=A, smoothed=smoothed, log_proportions=log_p)


def _used(config: AioliConfig, A: Float[Array, "n m"]) -> Float[Array, "rows m"]:
    """A as it enters the step: weighted by the objective, normalised."""
    if config.objective is not None:
        A = (jnp.asarray(config.objective, A.dtype)[:, None] * A).sum(0, keepdims=True)
    return normalized(A) if config.normalize else A


def _probed(state: AioliState) -> Int[Array, ""]:
    return state.order[jnp.maximum(state.probe - 1, 0)]


@partial(jax.jit, static_argnums=(2, 3))  # `init` runs eagerly: one compilation, not one per line
def _order_of_round(
    key: UInt32[Array, "2"], round: Int[Array, ""], m: int, sweeps: int
) -> Int[Array, "probes"]:
    return probe_order(jax.random.fold_in(jax.random.wrap_key_data(key), round), m, sweeps)
