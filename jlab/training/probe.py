"""What a mixing method that measures the run itself would learn at a checkpoint.

`learn_at` follows the method from a saved state until it has learned its matrix, as the training
loop would: plan, train, evaluate, update. Nothing is logged or saved, and the state that it began
with stays as it is.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jlab.data.loader import LoaderState
from jlab.training.language_model import make_evaluator
from jlab.training.language_step import compiled_step
from jlab.training.loop import NonFiniteLoss
from jlab.training.loop_state import Controller, Round, add_step, mean_losses, new_round
from jlab.training.mesh import batch_rows, make_mesh, put_batch
from jlab.training.mixer import IN_STEP, UNTIL_THE_END, Mixer, Observation, Plan
from jlab.training.optim import make_schedule
from jlab.training.signals import Interrupted, stop_on_signal
from jlab.training.start import Start
from jlab.training.state import TrainState

_MOST_PLANS = 100_000  # a method that has learned nothing by then never will


class Learned(NamedTuple):
    """What the method learned, and what that took."""

    matrix: Float[np.ndarray, "n m"]  # A, rows evaluated and columns trained
    steps: int  # optimiser steps
    evaluations: int


class _Here(NamedTuple):
    train: TrainState
    data: LoaderState
    seen: Round  # what came of the current plan


def learn_at(start: Start, mixer: Mixer) -> Learned:
    """Follow a method from `start` until it has learned its matrix for the first time.

    The learning rate goes on by the model's own schedule; past its end the last rate holds.

    Args:
      start: where to begin.
      mixer: a method whose `update` says `mixing/round_learned` and `mixing/matrix`, as those that
        `jlab.mixing.online` makes do; not one that lives in the training step.

    Raises:
      ValueError: the method lives in the step, or plans to the end of the run.
      NonFiniteLoss: a step or an evaluation was not finite.
      Interrupted: a signal asked to stop.
    """
    if mixer.needs & IN_STEP:
        raise ValueError(
            "mixer must learn between steps; this one lives in the training step, because it needs"
            f" {', '.join(sorted(mixer.needs & IN_STEP))}"
        )
    config, controller = start.config, Controller(mixer)
    mesh = make_mesh(config.mesh)
    evaluate = make_evaluator(config, start.groups, mesh, "validation", config.eval_windows)
    with jax.enable_x64(True):
        state = jax.device_get(mixer.init(jax.random.key(config.seed), len(start.data.drawn)))
    # A copy, because a step eats the state that it is given.
    here = _Here(jax.tree.map(jnp.copy, start.train), start.data, new_round(start.data))
    evaluations = 0
    with stop_on_signal() as stop:
        for _ in range(_MOST_PLANS):
            plan = controller.plan(state)
            here = _follow(start, plan, here, stop)
            losses = evaluate(here.train.params).loss if plan.evaluate else None
            evaluations += int(plan.evaluate)
            state, said = controller.update(state, _observation(start, mixer, here, losses))
            if said["mixing/round_learned"]:
                steps = int(here.train.step) - int(start.train.step)
                return Learned(np.asarray(said["mixing/matrix"], np.float64), steps, evaluations)
    raise ValueError(f"mixer must learn a matrix; this one has not in {_MOST_PLANS} plans")


def _follow(start: Start, plan: Plan, here: _Here, stop: Callable[[], bool]) -> _Here:
    """Train on a plan."""
    if plan.steps == UNTIL_THE_END:
        raise ValueError("mixer must plan some steps at a time; this one plans to the end")
    config, groups = start.config, start.groups
    mesh = make_mesh(config.mesh)
    step = compiled_step(config, groups, mesh, None, None)
    weights = jnp.asarray(plan.loss_weights, jnp.float32)
    train, data = here.train._replace(extras={"loss_weights": weights}), here.data
    seen = new_round(data)
    rows = batch_rows(config.batch_size, mesh, config.accumulate)
    for batch, after in start.loader().batches(data, plan.proportions, int(plan.steps), rows):
        if stop():
            raise Interrupted(f"stopped in a probe at step {int(train.step)}")
        train, metrics = step(train, put_batch(batch, mesh))
        metrics = jax.device_get(metrics)
        if not metrics["finite"]:
            raise NonFiniteLoss(f"step {int(train.step)}, in a probe: loss {metrics['loss']}")
        seen, data = add_step(seen, metrics), after
    return _Here(train, data, seen)


def _observation(
    start: Start, mixer: Mixer, here: _Here, losses: Float[np.ndarray, "m"] | None
) -> Observation:
    """What the training loop shows a method at the end of a plan."""
    config, step = start.config, int(here.train.step)
    if losses is not None and not np.isfinite(losses).all():
        raise NonFiniteLoss(f"step {step}, in a probe: validation losses {losses.tolist()}")
    return Observation(
        step=np.asarray(step, np.int32),
        learning_rate=np.asarray(make_schedule(config.optimizer, config.loop.steps)(step)),
        counts=np.asarray(here.data.drawn - here.seen.drawn, np.float64),
        eval_loss=np.full(len(here.data.drawn), np.nan) if losses is None else losses,
        train_loss=mean_losses(here.seen) if "train_loss" in mixer.needs else None,
    )
