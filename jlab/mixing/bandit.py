"""The estimator of ODM: a bandit whose reward for a group is its training loss.

A^t is diagonal: a running mean of L_j / p_j over the steps that drew group j, so that a group which
is rarely drawn is not underrated.
Symbols: Rhat -> reward[m], a -> memory.
Source: Albalak et al., "Efficient Online Data Mixing For Language Model Pre-Training", 2023,
Algorithm 1 (arXiv 2312.02406).
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jlab.mixing.compose import Estimator
from jlab.mixing.mixer import make_plan
from jlab.training.mixer import Observation, Plan


class BanditState(NamedTuple):
    """Rewards so far."""

    matrix: Float[Array, "m m"]  # diag(Rhat), in nats per token; zeros before


def bandit(memory: float = 0.9, update_steps: int = 1) -> Estimator:
    """Rhat_j <- a Rhat_j + (1 - a) L_j / p_j for every group j drawn in the last plan.

    Args:
        memory: a, weight of the rewards so far.
        update_steps: optimiser steps between updates.

    Raises:
        ValueError: a memory outside [0, 1), fewer than 1 step.
    """
    if not 0 <= memory < 1:
        raise ValueError(f"memory must be in [0, 1); got {memory}")
    if update_steps < 1:
        raise ValueError(f"update_steps must be at least 1; got {update_steps}")

    def init(key: Array, m: int) -> BanditState:
        del key
        return BanditState(jnp.zeros((m, m)))

    def plan(state: BanditState, proportions: Float[Array, "m"]) -> Plan:
        del state
        return make_plan(proportions, update_steps, evaluate=False)

    def update(
        state: BanditState, observation: Observation, proportions: Float[Array, "m"]
    ) -> tuple[BanditState, Bool[Array, ""]]:
        reward = jnp.diag(state.matrix)
        loss = jnp.asarray(observation.train_loss, reward.dtype)
        drawn = jnp.isfinite(loss) & (proportions > 0)
        seen = jnp.where(drawn, loss / jnp.where(drawn, proportions, 1), reward)
        reward = jnp.where(drawn, memory * reward + (1 - memory) * seen, reward)
        return BanditState(jnp.diag(reward)), jnp.ones((), bool)

    return Estimator(init, plan, update, needs=frozenset({"train_loss"}))
