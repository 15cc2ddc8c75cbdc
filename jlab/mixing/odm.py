"""ODM: online data mixing as an Exp3 bandit over the groups.

Its three parts: the linear dynamic law, the bandit's rewards as estimator (diagonal), and
exponentiated gradient descent from uniform with exploration as solver. No extra run is needed.
Symbols: e_t -> exploration, Rhat -> the bandit's reward.
Source: Albalak et al., "Efficient Online Data Mixing For Language Model Pre-Training", 2023,
Algorithm 1 (arXiv 2312.02406).
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jlab.mixing.bandit import bandit
from jlab.mixing.compose import linear, online
from jlab.mixing.solvers import exponentiated_gradient_solver
from jlab.training.mixer import Mixer


def odm(*, memory: float = 0.9, update_steps: int = 1) -> Mixer:
    """p_j = (1 - m e_t) softmax(e_{t-1} Rhat)_j + e_t, e_t = min(1/m, sqrt(ln m / (m t))).

    Args:
        memory: weight of the rewards so far, in [0, 1).
        update_steps: optimiser steps between updates.

    Raises:
        ValueError: a setting out of range.
    """
    solver = exponentiated_gradient_solver(
        learning_rate=exploration,  # the round counts from 0: e_{t-1}
        smoothing=lambda round, m: m * exploration(round + 1, m),
        accumulate=False,
    )
    return online(bandit(memory, update_steps), solver, linear)


def exploration(t: Int[Array, ""], m: int) -> Float[Array, ""]:
    """Share e_t that every group gets whatever its reward; e_0 = 1/m."""
    t = jnp.asarray(t, jnp.result_type(float))
    return jnp.minimum(1 / m, jnp.sqrt(jnp.log(m) / (m * jnp.maximum(t, 1e-9))))
