"""Pieces that mixing methods share: a plan without loss weights, and checks of proportions."""

import reprlib
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jlab.training.mixer import UNTIL_THE_END, Plan

SUM_TOLERANCE = 1e-6  # of written proportions: room for sixths and sevenths typed with seven digits


def make_plan(
    proportions: Float[Array, "m"], steps: int | Int[Array, ""], evaluate: bool | Bool[Array, ""]
) -> Plan:
    """The plan of a method that leaves the loss weights at one."""
    return Plan(
        proportions=proportions,
        loss_weights=jnp.ones_like(proportions),
        steps=jnp.asarray(steps, jnp.int32),
        evaluate=jnp.asarray(evaluate, bool),
    )


def reweighting_plan(proportions: Float[Array, "m"]) -> Plan:
    """Draw the groups in equal shares, and let the proportions weigh their losses instead."""
    m = len(proportions)
    return Plan(
        proportions=jnp.full(m, 1 / m, proportions.dtype),
        loss_weights=proportions,
        steps=jnp.full((), UNTIL_THE_END, jnp.int32),
        evaluate=jnp.zeros((), bool),
    )


def check_proportions(name: str, proportions: Sequence[float]) -> np.ndarray:
    """Written proportions as a float64 vector, unchanged; no silent renormalisation.

    Raises:
        ValueError: not a vector, an entry negative or not finite, or a sum that is not 1.
    """
    vector = np.asarray(proportions, np.float64)
    written = reprlib.repr(vector.tolist())  # cut where many groups would fill the screen
    if vector.ndim != 1 or vector.size == 0:
        raise ValueError(f"{name} must be one number per group; got {written}")
    if not np.all(np.isfinite(vector)) or np.any(vector < 0):
        raise ValueError(f"{name} must be finite and not negative; got {written}")
    total = vector.sum()
    if total == 0:
        raise ValueError(f"{name} must sum to 1; got {written}, which sums to 0")
    if abs(total - 1) > SUM_TOLERANCE:
        raise ValueError(
            f"{name} must sum to 1; got {written}, which sums to {total:.8g}: "
            f"divide every entry by {total:.8g}"
        )
    return vector


def check_group_count(name: str, written: int, m: int) -> None:
    """Refuse a setting that has one entry per group, for another number of groups."""
    if written != m:
        raise ValueError(
            f"{name} must have one entry per group: it has {written}, there are {m} groups"
        )
