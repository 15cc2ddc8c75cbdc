"""The estimator of Aioli: A from short probes that are interleaved with the run itself.

A round of U steps starts with K probes of s steps on smoothed one-hot mixtures, after each of which
the validation losses are measured; the rest of the round trains on the solver's proportions.
Nothing is undone and no extra run is needed: probes are training steps too.
Symbols: W -> requested[m, m], f -> one_hot_factor, U -> update_steps, R -> sweeps, s ->
probe_steps, K = m R -> probes.
Source: Chen et al., "Aioli", ICLR 2025, Algorithms 1 and 2 (arXiv 2411.05735).
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt32

from jlab.mixing.compose import Estimator
from jlab.mixing.learn_params import (
    estimate_matrix,
    probe_order,
    realised_weights,
    smoothed_one_hots,
)
from jlab.mixing.mixer import make_plan
from jlab.training.mixer import UNTIL_THE_END, Observation, Plan


class ProbesState(NamedTuple):
    """Where a round stands; n evaluated losses."""

    key: UInt32[Array, "2"]  # raw data of the key that orders the probes; never changes
    round: Int[Array, ""]  # how often A has been learned
    probe: Int[Array, ""]  # 0: training on the proportions; 1..K: that probe
    rest: Int[Array, ""]  # steps from the last probe to the end of the round
    order: Int[Array, "probes"]  # which group each probe of this round leans on
    losses: Float[Array, "probes+1 n"]  # validation losses before the first probe and after each
    counts: Float[Array, "m m"]  # windows of each group (columns) drawn while probing each (rows)
    matrix: Float[Array, "n m"]  # A of the last finished round, in nats per probe; zeros before


def interleaved_probes(
    update_steps: int = 250,
    sweeps: int = 4,
    probe_steps: int = 4,
    one_hot_factor: float = 0.625,
    *,
    evaluated: int | None = None,
    diagonal: bool = False,
    once: bool = False,
) -> Estimator:
    """LearnParams in every round; rounds end at multiples of `update_steps` of the run.

    A run that comes to it in the middle of a round (after a prior phase) makes the first round
    shorter, or longer where its probes would not fit.

    Args:
        update_steps: U, steps of a round, probes included.
        sweeps: R, how often a round probes each group.
        probe_steps: s, steps of one probe.
        one_hot_factor: f, share of the probed group in its probes; above 1/m, at most 1.
        evaluated: n, number of evaluated losses; None: as many as groups.
        diagonal: ablation, each group's effect on its own loss only.
        once: ablation, learn A in the first round only.

    Raises:
        ValueError: a number below 1; at `init`, what `check_probes` refuses.

    Source: Algorithm 2 and Section 5.
    """

    sizes = {"update_steps": update_steps, "sweeps": sweeps, "probe_steps": probe_steps}
    for name, value in sizes.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1; got {value}")

    def init(key: Array, m: int) -> ProbesState:
        check_probes(m, update_steps, sweeps, probe_steps, one_hot_factor)
        n, probes = evaluated or m, m * sweeps
        key, first = jax.random.key_data(key), np.int32(0)
        fresh = ProbesState(  # NumPy: eager jax.numpy would compile every line of this
            key=key,
            round=first,
            probe=first,
            rest=first,
            order=_order_of_round(key, first, m, sweeps),
            losses=np.zeros((probes + 1, n)),
            counts=np.zeros((m, m)),
            matrix=np.zeros((n, m)),
        )
        return jax.tree.map(jnp.asarray, fresh)

    def plan(state: ProbesState, proportions: Float[Array, "m"]) -> Plan:
        probing = state.probe > 0
        one_hot = smoothed_one_hots(len(proportions), one_hot_factor)[_probed(state)]
        return make_plan(
            proportions=jnp.where(probing, one_hot.astype(proportions.dtype), proportions),
            steps=jnp.where(probing, probe_steps, state.rest),
            evaluate=state.rest < UNTIL_THE_END,
        )

    def update(
        state: ProbesState, observation: Observation, proportions: Float[Array, "m"]
    ) -> tuple[ProbesState, Bool[Array, ""]]:
        m, dtype = len(proportions), state.losses.dtype
        state = state._replace(
            losses=state.losses.at[state.probe].set(observation.eval_loss.astype(dtype)),
            counts=jnp.where(  # the phase before the first probe starts a new round's count
                state.probe > 0,
                state.counts.at[_probed(state)].add(observation.counts.astype(dtype)),
                jnp.zeros_like(state.counts),
            ),
        )
        learned = state.probe == len(state.order)
        rest = jnp.where(once, UNTIL_THE_END, -observation.step % update_steps)
        finished = learn(state)._replace(rest=rest.astype(jnp.int32), round=state.round + 1)
        state = jax.tree.map(lambda new, old: jnp.where(learned, new, old), finished, state)
        starts = (state.probe == 0) & (state.round > 0)
        order = _order_of_round(state.key, state.round, m, sweeps)
        return state._replace(
            probe=(state.probe + 1) % (len(state.order) + 1),
            order=jnp.where(starts, order, state.order),
        ), learned

    def learn(state: ProbesState) -> ProbesState:
        requested = smoothed_one_hots(len(state.counts), one_hot_factor)
        weights = realised_weights(state.counts, requested.astype(state.counts.dtype))
        A = estimate_matrix(state.losses, state.order, weights, diagonal=diagonal)
        return state._replace(matrix=A)

    return Estimator(init, plan, update, needs=frozenset({"eval_loss"}))


def check_probes(
    m: int, update_steps: int, sweeps: int, probe_steps: int, one_hot_factor: float
) -> None:
    """Refuse probes that cannot tell `m` groups apart, or that do not fit their round.

    Raises:
        ValueError: with the field, its value and what is allowed.
    """
    if m < 2:
        raise ValueError(f"the number of groups must be at least 2 for Aioli; got {m}")
    if not 1 / m < one_hot_factor <= 1:
        raise ValueError(
            f"one_hot_factor must be in (1/{m}, 1] with {m} groups; got {one_hot_factor}"
        )
    probing = m * sweeps * probe_steps
    if update_steps < probing:
        raise ValueError(
            f"update_steps must be at least {m} groups x {sweeps} sweeps x {probe_steps}"
            f" probe_steps = {probing}; got {update_steps}"
        )


def _probed(state: ProbesState) -> Int[Array, ""]:
    return state.order[jnp.maximum(state.probe - 1, 0)]


@partial(jax.jit, static_argnums=(2, 3))  # `init` runs eagerly: one compilation, not one per line
def _order_of_round(
    key: UInt32[Array, "2"], round: Int[Array, ""], m: int, sweeps: int
) -> Int[Array, "probes"]:
    return probe_order(jax.random.fold_in(jax.random.wrap_key_data(key), round), m, sweeps)
