"""The only training loop: plan a mixture, train on it, evaluate, let the mixing method learn.

The loop owns what has to happen around a pure step: logging, evaluation, checkpoints, signals and
the guard against NaN. Its whole state is one pytree, and every line logged for a step is written
before the checkpoint of that step, so that a run killed anywhere goes on as if nothing happened.
"""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Float

from jlab.data.batch import Batch
from jlab.data.loader import LoaderState, MixtureLoader
from jlab.training.checkpoint import Checkpointer
from jlab.training.config import check_least
from jlab.training.devices import peak_flops
from jlab.training.loop_state import (
    Controller,
    LoopState,
    add_step,
    mean_losses,
    new_round,
)
from jlab.training.mesh import put_batch
from jlab.training.mixer import Mixer, Observation, Plan
from jlab.training.run import ProgressLine, Run
from jlab.training.signals import Interrupted, stop_on_signal
from jlab.training.state import TrainState
from jlab.training.step import StepFn


@dataclass(frozen=True)
class LoopConfig:
    """How long to train and how often to log, evaluate and save."""

    steps: int = 1000
    """Optimiser steps in all."""
    log_every: int = 10
    """Steps between lines of metrics.jsonl."""
    eval_every: int = 200
    """Steps between evaluations on the validation split; 0: only those the mixing method needs."""
    checkpoint_every: int = 200
    """Steps between checkpoints; 0: only at the end and when interrupted."""
    keep: int = 2
    """Newest checkpoints to keep, at least 2; the best one is kept as well."""
    nonfinite: Literal["stop", "skip"] = "stop"
    """What to do with a step whose loss or gradient is not finite: stop, or skip and count it."""

    def __post_init__(self):
        least = {"steps": 1, "log_every": 1, "eval_every": 0, "checkpoint_every": 0, "keep": 2}
        check_least(self, least, where="loop.")
        if self.nonfinite not in ("stop", "skip"):
            raise ValueError(f"loop.nonfinite must be stop or skip; got {self.nonfinite!r}")


class Evaluation(Protocol):
    """What an evaluation gives: `GroupLosses` of text, or another system's of the same form."""

    loss: Float[np.ndarray, "m"]  # of each group

    def metrics(self) -> dict[str, Any]:
        """What else to log."""
        ...


@dataclass(frozen=True)
class Job:
    """What the loop drives; `step` and `evaluate` are compiled functions."""

    step: StepFn
    loader: MixtureLoader
    mixer: Mixer
    evaluate: Callable[[TrainState], Evaluation]  # on the validation split
    names: tuple[str, ...]  # of the groups
    mesh: Mesh
    rows: slice  # of each global batch, that this process feeds
    learning_rate: Callable[[int], Any]
    flops_per_item: float  # of a token, or of what `units` counts
    resume_command: str = ""
    units: str = "tokens"  # what `Batch.items` counts


# A method may measure or hand over in a few plans that train no step; this many are a mistake.
_MOST_EMPTY_PLANS = 100


class NonFiniteLoss(RuntimeError):
    """Training stopped because a loss or gradient was not finite."""


def train_loop(
    config: LoopConfig, job: Job, state: LoopState, run: Run, checkpointer: Checkpointer
) -> LoopState:
    """Train to `config.steps`, from the newest checkpoint if there is one.

    Raises:
      Interrupted: a signal asked to stop; the state is saved and plots can be made.
      NonFiniteLoss: with `nonfinite="stop"`; the state before the bad step is saved, so that
        resuming repeats just that step.
    """
    restored = checkpointer.restore(state)
    if restored is not None:
        state = restored[1]
    step = int(state.train.step)
    run.open_log(None if restored is None else step)
    line = ProgressLine(run, config.steps, step)
    loop = _Loop(config, job, run, checkpointer, line, Controller(job.mixer))
    with stop_on_signal() as stop:
        try:
            if stop():  # before the first step: there is nothing new to save
                raise Interrupted(f"stopped at step {step}")
            if restored is None:
                loop.log_plan(state)
            state = loop.measure(state)
            while int(state.train.step) < config.steps:
                state = loop.run_plan(state, stop)
        finally:
            line.close()
            with run.clock.measure("checkpoint"):
                checkpointer.close()
            run.close_log()
            run.failures.extend(checkpointer.failures)
        if stop():  # in the last step, or while its checkpoint was being written
            raise Interrupted(f"stopped at step {config.steps}")
    return state


@dataclass(frozen=True)
class _Loop:
    config: LoopConfig
    job: Job
    run: Run
    checkpointer: Checkpointer
    line: ProgressLine
    controller: Controller

    def run_plan(self, state: LoopState, stop: Callable[[], bool]) -> LoopState:
        """Train the rest of the current plan, or to the end of the run."""
        plan = self.controller.plan(state.mixer)
        state = state._replace(train=self._weighted(state.train, plan))
        begin = int(state.train.step)
        todo = min(int(plan.steps) - int(state.round.steps), self.config.steps - begin)
        batches = self.job.loader.batches(state.data, plan.proportions, todo, self.job.rows)
        for step, item in enumerate(self._to_device(batches), begin + 1):
            state = self._train(state, item, step)
            every, ends = self.config.eval_every, int(state.round.steps) == int(plan.steps)
            periodic = every > 0 and step % every == 0
            losses = None
            if periodic or (ends and plan.evaluate):
                losses = self._evaluate(state, step)
            if ends:
                state = self.measure(self._end_round(state, losses), losses)
            self._after_step(state, step, losses, stop)
        return state

    def log_plan(self, state: LoopState) -> None:
        """Log what will be drawn next; these lines are a schedule that replays the run."""
        plan = self.controller.plan(state.mixer)
        self.run.log(
            int(state.train.step),
            {
                "plan": {
                    "proportions": plan.proportions,
                    "loss_weights": plan.loss_weights,
                    "steps": plan.steps,
                },
                "mixture": self.controller.result(state.mixer),
            },
        )

    def measure(self, state: LoopState, losses: Evaluation | None = None) -> LoopState:
        """Go through the plans that train no step, up to the next one that does.

        Before the checkpoint of this step is written: a resumed run must not log them again.
        `losses` are those of this step where they have just been measured.
        """
        step, measured = int(state.train.step), 0
        while step < self.config.steps and (plan := self.controller.plan(state.mixer)).steps == 0:
            if plan.evaluate and losses is None:
                losses = self._evaluate(state, step)
            state = self._end_round(state, losses if plan.evaluate else None)
            measured += 1
            if measured > _MOST_EMPTY_PLANS:
                raise ValueError(f"the mixing method planned {measured} times no step to train")
        return state

    def _weighted(self, train: TrainState, plan: Plan) -> TrainState:
        weights = np.asarray(plan.loss_weights, np.float32)
        placed = jax.device_put(weights, NamedSharding(self.job.mesh, PartitionSpec()))
        return train._replace(extras={**train.extras, "loss_weights": placed})

    def _to_device(self, batches) -> Iterator[tuple[Batch, Batch, LoaderState]]:
        """One batch ahead on the device, so that the copy hides behind the step."""
        ahead: deque = deque()
        batches = iter(batches)
        while True:
            with self.run.clock.measure("data"):
                item = next(batches, None)
                if item is not None:
                    batch, data = item
                    ahead.append((batch, put_batch(batch, self.job.mesh), data))
            if not ahead:
                return
            if item is None or len(ahead) > 1:
                yield ahead.popleft()

    def _train(self, state: LoopState, item: tuple[Batch, Batch, LoaderState], step: int):
        host, batch, data = item
        with self.run.clock.measure("step"):
            train, metrics = self.job.step(state.train, batch)
            metrics = jax.device_get(metrics)
        finite = bool(metrics["finite"])
        if not finite and self.config.nonfinite == "stop":
            # The guarded update changed nothing, so this is the state just before the bad step.
            self._save(state._replace(train=train._replace(step=train.step - 1)), step - 1)
            raise NonFiniteLoss(self._replay_message(step, host, metrics))
        skipped = state.skipped + np.int64(not finite)
        state = LoopState(train, data, state.mixer, add_step(state.round, metrics), skipped)
        if step % self.config.log_every == 0 or step == self.config.steps or not finite:
            self._log_step(step, state, host, metrics)
        return state

    def _end_round(self, state: LoopState, losses: Evaluation | None) -> LoopState:
        """Let the method learn from what came of its plan; then the next plan begins."""
        step, m = int(state.train.step), len(self.job.names)
        if losses is not None and not np.isfinite(losses.loss).all():
            bad = [
                n for n, x in zip(self.job.names, losses.loss, strict=True) if not np.isfinite(x)
            ]
            raise NonFiniteLoss(
                f"step {step}: the validation loss of {', '.join(bad)} is not finite,"
                " and the mixing method cannot learn from it; the last checkpoint is before this"
            )
        observation = Observation(
            step=np.asarray(step, np.int32),
            learning_rate=np.asarray(self._learning_rate(state, step), np.float64),
            counts=np.asarray(state.data.drawn - state.round.drawn, np.float64),
            eval_loss=np.full(m, np.nan) if losses is None else losses.loss,
            train_loss=mean_losses(state.round) if "train_loss" in self.job.mixer.needs else None,
            reference_loss=None,
            gradients=None,
        )
        mixer, metrics = self.controller.update(state.mixer, observation)
        if metrics:
            self.run.log(step, metrics)
        state = state._replace(mixer=mixer, round=new_round(state.data))
        self.log_plan(state)
        return state

    def _after_step(
        self, state: LoopState, step: int, losses: Evaluation | None, stop: Callable[[], bool]
    ) -> None:
        config = self.config
        metrics = None if losses is None else {"loss": float(losses.loss.mean())}
        self.line.step(step)
        stopping = stop() and step < config.steps
        due = config.checkpoint_every and step % config.checkpoint_every == 0
        if due or stopping or step == config.steps:
            self._save(state, step, metrics)
        else:
            self.checkpointer.poll()
        if stopping:
            raise Interrupted(f"stopped at step {step}")

    def _evaluate(self, state: LoopState, step: int) -> Evaluation:
        with self.run.clock.measure("evaluate"):
            losses = self.job.evaluate(state.train)
        self.run.log(
            step,
            {
                "eval/loss": losses.loss.mean(),
                **{f"eval/{name}": x for name, x in losses.metrics().items()},
                **{f"eval/loss/{n}": x for n, x in zip(self.job.names, losses.loss, strict=True)},
            },
        )
        return losses

    def _learning_rate(self, state: LoopState, step: int) -> Any:
        """Of the update after `step` steps; the schedule does not move on in skipped steps."""
        return self.job.learning_rate(step - int(state.skipped))

    def _save(self, state: LoopState, step: int, metrics: dict[str, float] | None = None) -> None:
        with self.run.clock.measure("checkpoint"):
            self.checkpointer.save(step, state, metrics)

    def _log_step(self, step: int, state: LoopState, batch: Batch, metrics: dict) -> None:
        names, epochs = self.job.names, self.job.loader.epochs(state.data)
        items = batch.items * jax.process_count()
        speed = self.line.speed(step, items, self.run.clock.parts["step"])
        peak = peak_flops()
        mfu = speed * self.job.flops_per_item / peak if peak else None
        self.run.log(
            step,
            {
                "loss": metrics["loss"],
                "grad_norm": metrics["grad_norm"],
                "learning_rate": np.asarray(self._learning_rate(state, step - 1)),
                "skipped": state.skipped,
                **{f"loss/{n}": x for n, x in zip(names, metrics["group_loss"], strict=True)},
                **{f"epochs/{n}": x for n, x in zip(names, epochs, strict=True)},
                **_method_metrics(metrics),
                "batch": {"group": batch.group, "ids": batch.ids},
            },
            {f"{self.job.units}_per_second": speed, "mfu": mfu},
        )
        self.line.note(step, float(metrics["loss"]), f"{speed:,.0f} {self.job.units}/s", mfu)

    def _replay_message(self, step: int, batch: Batch, metrics: dict) -> str:
        rows = [f"{self.job.names[g]}:{i}" for g, i in zip(batch.group, batch.ids, strict=True)]
        bad = [
            name
            for name, loss in zip(self.job.names, metrics["group_loss"], strict=True)
            if name in {row.split(":")[0] for row in rows} and not np.isfinite(loss)
        ]
        return (
            f"step {step}: loss {metrics['loss']}, gradient norm {metrics['grad_norm']},"
            f" groups with a non-finite loss: {', '.join(bad) or 'none'}; batch {' '.join(rows)};"
            f" the state before this step is saved, replay it with: {self.job.resume_command}"
        )


def _method_metrics(metrics: dict) -> dict:
    """What a method that lives in the step says, by names with a slash.

    A mixing method's weights are the mixture.
    """
    said = {name: value for name, value in metrics.items() if "/" in name}
    if "mixing/proportions" in said:
        said["mixture"] = said["mixing/proportions"]
    return said
