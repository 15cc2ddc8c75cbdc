"""The estimator of DoReMi: how far each group's loss lies above that of a reference model.

A^t is diagonal: A[j, j] = max(L_j(theta_t) - L_j(theta_ref), 0) on the groups of the batch. The
windows are drawn in equal shares and the proportions weigh the groups' losses instead.
Symbols: e -> excess[m].
Source: Chen et al., "Aioli", ICLR 2025, Section 3.2; Xie et al., "DoReMi", NeurIPS 2023, Algorithm
1 (arXiv 2305.10429). Some prints of the unified form clip with min(., 0); both codes use max.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jlab.mixing.compose import Estimator
from jlab.mixing.mixer import reweighting_plan
from jlab.training.mixer import Observation

FIRST_SCORE = 1e-6  # of a group that no batch has held yet, as released


class ExcessState(NamedTuple):
    """Last known excess losses."""

    matrix: Float[Array, "m m"]  # diag(e), in nats per token


def excess_loss() -> Estimator:
    """A = diag(e) after every step; a group that the batch lacks keeps its last score."""

    def init(key: Array, m: int) -> ExcessState:
        del key
        return ExcessState(FIRST_SCORE * jnp.eye(m))

    def update(
        state: ExcessState, observation: Observation, proportions: Float[Array, "m"]
    ) -> tuple[ExcessState, Bool[Array, ""]]:
        del proportions
        excess = jnp.asarray(observation.train_loss - observation.reference_loss)
        last = jnp.diag(state.matrix)
        present = jnp.isfinite(observation.train_loss)
        excess = jnp.where(present, excess.astype(last.dtype), last)
        return ExcessState(jnp.diag(jnp.maximum(excess, 0))), jnp.ones((), bool)

    return Estimator(
        init,
        lambda state, proportions: reweighting_plan(proportions),
        update,
        needs=frozenset({"train_loss", "reference_loss"}),
    )
