"""Grading samples that are programs: they are run in the sandbox, equal ones once.

The store of outcomes is the sandbox's own, keyed by program, tests and limits: running that was
stopped goes on, and other limits or tests run the same samples again without drawing any.
"""

from collections.abc import Callable, Collection
from itertools import islice
from typing import NamedTuple

import numpy as np

from jlab.jobs import LAYERS, Limits, Outcome, Program, Store, run_many
from jlab.sampling.graders import Graded
from jlab.sampling.job import sample_keys
from jlab.sampling.meter import Meter
from jlab.training.signals import Interrupted, stop_on_signal

_AT_ONCE = 1024  # programs: of each lot the sandbox's workers are started anew, in 0.2 s


class Executed(NamedTuple):
    """Programs of a job's samples, run."""

    graded: dict[str, Graded]  # by problem; the answers are statuses, of `jlab.jobs.STATUSES`
    layers: tuple[str, ...]  # of the sandbox, those that contained every one of them


def grade_programs(
    samples: Store,
    outcomes: Store,
    programs: Callable[[str, str], Program],
    *,
    names: Collection[str] | None = None,
    limits: Limits,
    require: str | Collection[str] = "namespace",
    workers: int | None = None,
) -> Executed:
    """Run the programs of the samples that the store of a job holds, but for what has been run.

    Args:
      samples: of `draw_samples`.
      outcomes: keeps the outcomes, by program.
      programs: (problem, text of a sample) -> the program that it makes, with its tests.
      names: the problems whose samples are run; None: all.
      limits: of each program.
      require: layers of the sandbox, as for `jlab.jobs.run`.
      workers: programs that run at the same time; None: one per processor.

    Raises:
      PermissionError: a layer that `require` asks for is missing.
      Interrupted: Ctrl-C or SIGTERM.
    """
    keys = sample_keys(samples)
    rows = ((name, key) for name in keys if names is None or name in names for key in keys[name])
    found: dict[str, list[Outcome]] = {}
    with stop_on_signal() as stop, Meter("running", "programs", 0) as meter:

        def told(done: int, total: int, _outcome: Outcome) -> None:
            meter.expect(meter.done + 1 + total - done - meter.total)  # of this lot
            meter.add()
            if stop():
                raise Interrupted(f"stopped with {meter.done} programs run")

        while some := list(islice(rows, _AT_ONCE)):
            made = [programs(name, samples[key]["text"]) for name, key in some]
            ends = run_many(
                made,
                workers=workers,
                limits=limits,
                require=require,
                store=outcomes,
                progress=told,
            )
            for (name, _), outcome in zip(some, ends, strict=True):
                found.setdefault(name, []).append(outcome)
    layers = [set(outcome.layers) for ends in found.values() for outcome in ends]
    common = set.intersection(*layers) if layers else set()
    return Executed(
        {name: _graded(ends) for name, ends in found.items()},
        tuple(layer for layer in LAYERS if layer in common),
    )


def _graded(ends: list[Outcome]) -> Graded:
    return Graded([outcome.status for outcome in ends], np.array([o.passed for o in ends], bool))
