"""Branches: runs that differ by their mixture, trained side by side.

A mixing law is measured by training copies of one model on different proportions. `branch` trains
the copies for some steps, from a saved checkpoint or from fresh states; `sweep` trains fresh models
through their whole schedule. Each run is what the ordinary step makes of the same start and the
same batches, to float32 rounding, whatever runs beside it.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Bool, Float, Int, PyTree

from jlab.data import Groups
from jlab.data.batch import Batch
from jlab.data.loader import LoaderState
from jlab.training.language_config import LanguageModelConfig
from jlab.training.language_model import Trained
from jlab.training.mesh import batch_rows, make_mesh
from jlab.training.signals import Interrupted, stop_on_signal
from jlab.training.stacked import Stacked, fitting_runs, make_stacked, put_batches
from jlab.training.start import Start, fresh_start


class Branches(NamedTuple):
    """What came of n runs on m groups; losses are means over windows, in nats per token."""

    steps: Int[np.ndarray, "e"]  # steps trained at each evaluation; the first 0, the last all
    losses: Float[np.ndarray, "e n m"]  # on the validation split
    test: Float[np.ndarray, "n m"] | None  # on the test split, after the last step
    counts: Int[np.ndarray, "n m"]  # windows drawn from each group
    skipped: Int[np.ndarray, "n"]  # steps left out because loss or gradient was not finite

    @property
    def before(self) -> Float[np.ndarray, "n m"]:
        """Validation losses of the starts."""
        return self.losses[0]

    @property
    def after(self) -> Float[np.ndarray, "n m"]:
        """Validation losses after the last step."""
        return self.losses[-1]

    @property
    def finite(self) -> Bool[np.ndarray, "n"]:
        """Runs that took every step and have every validation loss."""
        return (self.skipped == 0) & np.isfinite(self.losses).all((0, 2))


def branch(
    start: Start | Sequence[Start],
    proportions: Float[np.ndarray, "n m"],
    steps: int,
    *,
    eval_every: int = 0,
    test: bool = False,
    runs_at_once: int | None = None,
    tell: Callable[[str], None] | None = None,
) -> Branches:
    """Train one run per mixture; the learning rate goes on by the model's own schedule.

    Runs of one start differ by their mixture alone: their batches come from one loader state. A
    step that is not finite is left out of its run, as the guarded step does; it is told and counted
    in `skipped`, and the other runs do not notice.

    Args:
      start: of all runs, or one for each; they may differ in state and seed. Left as it is.
      proportions: the mixture of each run, on the simplex.
      steps: optimiser steps; past the end of the schedule its last learning rate holds.
      eval_every: steps between evaluations on the validation split; 0: only before and after.
      test: evaluate on the test split at the end.
      runs_at_once: runs in one program, which changes results by rounding at most; None: as many
        as `fitting_runs` finds room for.
      tell: hears a line after each program, and one of each run that left out steps.

    Raises:
      ValueError: with the field, its value and what is allowed; nothing is trained.
      Interrupted: a signal asked to stop; nothing is kept.
    """
    p = np.asarray(proportions, np.float64)
    _check(p, steps, eval_every, runs_at_once)
    starts = [start] * len(p) if isinstance(start, Start) else list(start)
    _check_starts(starts, len(p))
    config, groups = starts[0].config, starts[0].groups
    mesh = make_mesh(config.mesh)
    streams = _streams(starts, p, steps, batch_rows(config.batch_size, mesh, config.accumulate))
    job = _Job(config, groups, mesh, make_stacked(config, len(groups.names)))
    different = {id(start): start for start in starts}
    fresh = {name: job.validate(start.train.params) for name, start in different.items()}
    due = sorted({*range(0, steps, eval_every or steps), steps})
    at_once = runs_at_once or fitting_runs(config, len(groups.names))
    parts = []
    # Equal parts, but for one run: two programs at most.
    with stop_on_signal() as stop:
        for runs in np.array_split(np.arange(len(p)), -(-len(p) // at_once)):
            before = np.stack([fresh[id(starts[i])] for i in runs])
            chosen = [(starts[i], streams[i]) for i in runs]
            parts.append(_train(job, chosen, due, before, test, stop))
            if tell is not None:
                _tell(tell, parts[-1].skipped, runs, p)
    return _joined(parts)


def sweep(
    config: LanguageModelConfig,
    groups: Groups,
    proportions: Float[np.ndarray, "n m"],
    seeds: Sequence[int] | None = None,
    **settings: Any,
) -> Branches:
    """Train a fresh model on each mixture, through the whole schedule, and test it.

    Args:
      config: of every run.
      groups: what `load_groups(config.data)` gave.
      proportions: the mixture of each run.
      seeds: of each run's parameters and data order; None: the config's for all.
      **settings: `eval_every`, `runs_at_once` and `tell` of `branch`.
    """
    seeds = [config.seed] * len(proportions) if seeds is None else seeds
    begin = {seed: fresh_start(replace(config, seed=seed), groups) for seed in sorted(set(seeds))}
    starts = [begin[seed] for seed in seeds]
    return branch(starts, proportions, config.loop.steps, test=True, **settings)


Stream = Iterator[tuple[Batch, LoaderState]]


class _Job(NamedTuple):
    """What the runs have in common."""

    config: LanguageModelConfig
    groups: Groups
    mesh: Mesh
    programs: Stacked

    def validate(self, params: PyTree) -> Float[np.ndarray, "m"]:
        return self._losses(params, "validation", self.config.eval_windows)

    def test(self, params: PyTree) -> Float[np.ndarray, "m"]:
        return self._losses(params, "test", self.config.test_windows)

    def _losses(self, params: PyTree, split: str, windows: int) -> Float[np.ndarray, "m"]:
        return Trained(self.config, self.groups, self.mesh, params).evaluate(split, windows).loss


def _streams(
    starts: list[Start], proportions: Float[np.ndarray, "n m"], steps: int, rows: slice
) -> list[Stream]:
    """The batches of each run. A loader for each, because it keeps the passes that it is in."""
    streams = []
    for run, (start, p) in enumerate(zip(starts, proportions, strict=True)):
        try:
            streams.append(start.loader().batches(start.data, p, steps, rows))
        except ValueError as error:
            raise ValueError(f"mixture {run}: {error}") from error
    return streams


def _train(
    job: _Job,
    runs: list[tuple[Start, Stream]],
    due: list[int],
    before: Float[np.ndarray, "n m"],
    test: bool,
    stop: Callable[[], bool],
) -> Branches:
    """Train the runs of one program."""
    starts, streams = zip(*runs, strict=True)
    ones = {"loss_weights": np.ones(before.shape[1], np.float32)}
    state = job.programs.stack(*(start.train._replace(extras=ones) for start in starts))
    skipped, losses = jnp.zeros(len(runs), jnp.int32), [before]

    def evaluate(losses_of: Callable[[PyTree], np.ndarray]) -> Float[np.ndarray, "n m"]:
        return np.stack([losses_of(job.programs.take(state.params, i)) for i in range(len(runs))])

    for step, items in enumerate(zip(*streams, strict=True), 1):
        if stop():
            raise Interrupted(f"stopped at step {step - 1} of {due[-1]}, side by side")
        batches, data = zip(*items, strict=True)
        placed = put_batches(batches, job.mesh)
        skipped.block_until_ready()  # batches are made one step ahead, and do not pile up
        state, skipped = job.programs.step(state, skipped, placed)
        if step in due:
            losses.append(evaluate(job.validate))
    return Branches(
        steps=np.array(due),
        losses=np.stack(losses),
        test=evaluate(job.test) if test else None,
        counts=np.stack([a.drawn - s.data.drawn for a, s in zip(data, starts, strict=True)]),
        skipped=np.asarray(jax.device_get(skipped), np.int64),
    )


def _tell(tell: Callable, skipped: np.ndarray, runs: np.ndarray, proportions: np.ndarray) -> None:
    for run, steps in zip(runs[skipped > 0], skipped[skipped > 0], strict=True):
        mixture = ", ".join(f"{share:.3g}" for share in proportions[run])
        tell(f"run {run} ({mixture}): {steps} steps were not finite and were left out")
    tell(f"{runs[-1] + 1} of {len(proportions)} runs done")


def _joined(parts: list[Branches]) -> Branches:
    tests = [part.test for part in parts]
    return Branches(
        steps=parts[0].steps,
        losses=np.concatenate([part.losses for part in parts], axis=1),
        test=None if tests[0] is None else np.concatenate(tests),
        counts=np.concatenate([part.counts for part in parts]),
        skipped=np.concatenate([part.skipped for part in parts]),
    )


def _check(proportions: np.ndarray, steps: int, eval_every: int, runs_at_once: int | None) -> None:
    if proportions.ndim != 2 or not len(proportions):
        raise ValueError(
            f"proportions must be one row per run, [n, m]; got the shape {proportions.shape}"
        )
    for name, value, least in (
        ("steps", steps, 1),
        ("eval_every", eval_every, 0),
        ("runs_at_once", runs_at_once, 1),
    ):
        if value is not None and value < least:
            raise ValueError(f"{name} must be >= {least}; got {value}")


def _check_starts(starts: list[Start], runs: int) -> None:
    if len(starts) != runs:
        raise ValueError(f"start must be one, or one per mixture ({runs}); got {len(starts)}")
    for run, start in enumerate(starts):
        if replace(start.config, seed=starts[0].config.seed) != starts[0].config:
            raise ValueError(f"start {run} has another config than start 0, beyond the seed")
