"""What one training step reads and returns."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree, Real, UInt32


class TrainState(NamedTuple):
    """Everything a step changes. A pytree: sharded, donated and checkpointed as one."""

    step: Int[Array, ""]  # optimiser steps taken
    params: PyTree
    opt_state: PyTree
    extras: dict[str, Any]  # other Linen collections and method state, by name
    key: UInt32[Array, "2"]  # raw key; a step folds its number in, so restarts draw the same


class Mean(NamedTuple):
    """A metric that is the mean of some rows of a batch; over slices both parts add up."""

    total: Float[Array, "..."]
    count: Real[Array, "..."]  # rows in `total`; the mean of none is NaN


class Aux(NamedTuple):
    """Second output of a loss function."""

    metrics: dict[str, Array | Mean]
    extras: dict[str, Any]  # the collections after the step
    weight: Float[Array, ""] | float = 1.0  # of what the loss is a mean; slices count by it


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
