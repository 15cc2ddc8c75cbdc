"""What one training step reads and returns."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, PyTree, UInt32


class TrainState(NamedTuple):
    """Everything a step changes. A pytree: sharded, donated and checkpointed as one."""

    step: Int[Array, ""]  # optimiser steps taken
    params: PyTree
    opt_state: PyTree
    extras: dict[str, Any]  # other Linen collections and method state, by name
    key: UInt32[Array, "2"]  # raw key; a step folds its number in, so restarts draw the same


class Aux(NamedTuple):
    """Second output of a loss function."""

    metrics: dict[str, Array]
    extras: dict[str, Any]  # the collections after the step


def init_state(
    params: PyTree, optimizer: optax.GradientTransformation, key: Array, extras: dict | None = None
) -> TrainState:
    """State before the first step.

    Args:
      params: float32 parameters.
      optimizer: an optax transformation.
      key: a typed or raw jax key.
      extras: other collections and method state by name.
    """
    if jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        key = jax.random.key_data(key)
    return TrainState(jnp.int32(0), params, optimizer.init(params), extras or {}, key)
