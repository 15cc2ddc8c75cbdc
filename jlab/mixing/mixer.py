"""What every mixing method is: four pure functions and the list of what they need to see.

The training loop repeats: `plan`, train `Plan.steps` steps, evaluate if the plan asks for it,
`update`. A plan that the training budget cuts short is not observed. The whole method is in its
state, a NamedTuple of arrays that a checkpoint holds, so a run resumed from any state goes on as
if it had never stopped. Everything here works under `jit` and `vmap`; floats are those of the
active precision (`jax.enable_x64`).
"""

import reprlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Real

UNTIL_THE_END = int(
    np.iinfo(np.int32).max
)  # `Plan.steps` of a plan that lasts for the rest of the run
SUM_TOLERANCE = 1e-6  # of written proportions: room for sixths and sevenths typed with seven digits


class Plan(NamedTuple):
    """What to train on next, for how long, and whether to measure afterwards."""

    proportions: Float[Array, "m"]  # on the simplex; share of the windows drawn from each group
    loss_weights: Float[Array, "m"]  # factor on each group's loss; ones unless the method reweights
    steps: Int[Array, ""]  # optimiser steps to train with these; 0 only measures
    evaluate: Bool[Array, ""]  # measure the validation losses after these steps


class Observation(NamedTuple):
    """What came of a plan. The loop fills the optional fields that the mixer names in `needs`."""

    step: Int[Array, ""]  # optimiser steps of the whole run so far
    learning_rate: Float[Array, ""]  # the optimiser's, at this step
    counts: Real[Array, "m"]  # windows really drawn per group during this plan; all 0 after 0 steps
    eval_loss: Float[Array, "n"] | None = (
        None  # nats per token; NaN where the plan did not evaluate
    )
    train_loss: Float[Array, "m"] | None = None  # nats per token, mean over the plan
    reference_loss: Float[Array, "m"] | None = None  # of a reference model on the same windows
    gradients: Any | None = None  # per-group gradients, for methods that compare them


class Mixer(NamedTuple):
    """A mixing method; `needs` names the fields of `Observation` that its `update` reads."""

    init: Callable[[Array, int], Any]  # (key, number of groups m) -> state
    plan: Callable[[Any], Plan]  # state -> plan
    update: Callable[[Any, Observation], tuple[Any, dict[str, Array]]]  # -> (state, metrics)
    result: Callable[
        [Any], Float[Array, "m"]
    ]  # state -> the proportions that the method settled on
    needs: frozenset[str] = frozenset()


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
