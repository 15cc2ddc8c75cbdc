"""What the loop carries from step to step, and the mixing method's part of it."""

from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int, PyTree

from jlab.data.loader import LoaderState, MixtureLoader
from jlab.training.mixer import Mixer, Observation, Plan
from jlab.training.state import TrainState


class Round(NamedTuple):
    """How far the current plan has come."""

    steps: Int[np.ndarray, ""]  # steps trained in this plan
    drawn: Int[np.ndarray, "m"]  # the loader's counts when the plan began
    loss_sum: Float[np.ndarray, "m"]  # training losses so far, summed over the steps that had any
    loss_steps: Int[np.ndarray, "m"]


class LoopState(NamedTuple):
    """Everything a run needs to go on: what a checkpoint holds."""

    train: TrainState
    data: LoaderState
    mixer: PyTree
    round: Round
    skipped: Int[np.ndarray, ""]  # steps left out because they were not finite


def init_loop_state(train: TrainState, loader: MixtureLoader, mixer: Mixer, seed: int) -> LoopState:
    """State before the first step of a run."""
    m = len(loader.train)
    with jax.enable_x64(True):
        mixing = jax.device_get(mixer.init(jax.random.key(seed), m))
    data = loader.init()
    return LoopState(train, data, mixing, new_round(data), np.zeros((), np.int64))


class Controller:
    """The mixing method in float64 on the host: it works with differences of a hundredth of a nat.

    Source: the numerical notes of Aioli's specification: with losses rounded to float32 the
    estimated matrix is only good to 3e-4 of its largest entry.
    """

    def __init__(self, mixer: Mixer):
        self._plan, self._update = jax.jit(mixer.plan), jax.jit(mixer.update)
        self._result = jax.jit(mixer.result)

    def plan(self, state: PyTree) -> Plan:
        """What to train on next."""
        with jax.enable_x64(True):
            return jax.device_get(self._plan(state))

    def result(self, state: PyTree) -> Float[np.ndarray, "m"]:
        """The proportions that the method stands at."""
        with jax.enable_x64(True):
            return jax.device_get(self._result(state))

    def update(self, state: PyTree, observation: Observation) -> tuple[PyTree, dict]:
        """The state after an observation, and what the method logs."""
        with jax.enable_x64(True):
            return jax.device_get(self._update(state, observation))


def new_round(data: LoaderState) -> Round:
    """The round of a plan that begins now."""
    m = len(data.drawn)
    return Round(np.zeros((), np.int64), data.drawn, np.zeros(m), np.zeros(m, np.int64))


def add_step(so_far: Round, metrics: dict) -> Round:
    """The round after one more step, with its training losses."""
    losses = np.asarray(metrics["group_loss"], np.float64)
    seen = np.isfinite(losses)
    return so_far._replace(
        steps=so_far.steps + np.int64(1),
        loss_sum=so_far.loss_sum + np.where(seen, losses, 0.0),
        loss_steps=so_far.loss_steps + seen,
    )


def mean_losses(so_far: Round) -> Float[np.ndarray, "m"]:
    """Mean training loss of each group in the plan; NaN for one that was not drawn."""
    steps = np.where(so_far.loss_steps > 0, so_far.loss_steps, np.nan)
    return so_far.loss_sum / steps
