"""What every mixing method is: four pure functions and the list of what they need to see.

The training loop repeats: `plan`, train `Plan.steps` steps, evaluate if the plan asks for it,
`update`. A plan that the training budget cuts short is not observed. The whole method is in its
state, a NamedTuple of arrays that a checkpoint holds, so a run resumed from any state goes on as
if it had never stopped. Everything here works under `jit` and `vmap`; floats are those of the
active precision (`jax.enable_x64`).

The loop defines this contract; the methods themselves are in `jlab.mixing`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Float, Int, Real

# `Plan.steps` of a plan that lasts for the rest of the run.
UNTIL_THE_END = int(np.iinfo(np.int32).max)
# Methods that need one of these live in the training step: what they observe of a step decides how
# that same step is taken, so `update` comes before the step and `Plan.loss_weights` after it.
IN_STEP = frozenset({"reference_loss", "gradients", "gradient_matrix"})


class Plan(NamedTuple):
    """What to train on next, for how long, and whether to measure afterwards."""

    proportions: Float[Array, "m"]  # on the simplex; share of the windows drawn from each group
    loss_weights: Float[Array, "m"]  # factor on each group's loss; ones unless the method reweights
    steps: Int[Array, ""]  # optimiser steps to train with these; 0 only measures
    evaluate: Bool[Array, ""]  # measure the validation losses after these steps


class GroupGradients(NamedTuple):
    """How the groups' gradients in a step agree with the validation gradients."""

    products: Float[Array, "n m"]  # <v_i, g_j>; n = 1: v of the mean loss. All clipped to norm 1
    norms: Float[Array, "m"]  # of g_j, clipped; 0 for a group that the batch lacks


class Observation(NamedTuple):
    """What came of a plan. The loop fills the optional fields that the mixer names in `needs`."""

    step: Int[Array, ""]  # optimiser steps of the whole run so far
    learning_rate: Float[Array, ""]  # the optimiser's, at this step
    counts: Real[Array, "m"]  # windows really drawn per group during this plan; all 0 after 0 steps
    eval_loss: Float[Array, "n"] | None = None  # nats per token; NaN without an evaluation
    train_loss: Float[Array, "m"] | None = None  # nats per token, mean over the plan
    reference_loss: Float[Array, "m"] | None = None  # of a reference model on the same windows
    gradients: GroupGradients | None = None  # for methods that compare gradients


class Mixer(NamedTuple):
    """A mixing method; `needs` names the fields of `Observation` that its `update` reads."""

    init: Callable[[Array, int], Any]  # (key, number of groups m) -> state
    plan: Callable[[Any], Plan]  # state -> plan
    update: Callable[[Any, Observation], tuple[Any, dict[str, Array]]]  # -> (state, metrics)
    result: Callable[[Any], Float[Array, "m"]]  # state -> the proportions that it settled on
    needs: frozenset[str] = frozenset()
