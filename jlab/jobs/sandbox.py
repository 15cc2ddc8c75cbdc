"""Contained execution of programs that a model has written.

Each program runs in a bare interpreter of its own, behind as many layers as the system allows
(`jlab.jobs.layers`), and its tests in another process that it cannot reach: they call its functions
over a pipe and see copies of plain values, so a program passes by its values or not at all.
Outcomes name the layers that were active, and a program is not started where those that `require`
asks for are missing.

    >>> run("def double(x): return 2 * x", tests="assert program.double(4) == 8").status
    'passed'
    >>> run("print(6 * int(input()))", stdin="7").stdout
    '42\\n'

This is not a full sandbox. All layers rest on one kernel, whose faults they do not cover; programs
share the processor and its caches with everything else; without the layer `mount`, which takes
Linux 5.12, they read what other users may read. Code of people who mean harm belongs in a virtual
machine of its own. `python -m jlab.jobs` prints which layers a system allows.
"""

import os
from collections.abc import Callable, Collection, Sequence
from contextlib import closing
from dataclasses import asdict

from jlab.jobs.pool import Supervisor, run_all
from jlab.jobs.programs import Limits, Outcome, Program
from jlab.jobs.results import Store, content_hash

DEFAULT_LIMITS = Limits()
Progress = Callable[[int, int, Outcome], None]  # different programs: done, in all; the latest


def run(
    source: str,
    *,
    tests: str | None = None,
    stdin: str = "",
    limits: Limits = DEFAULT_LIMITS,
    require: str | Collection[str] = "namespace",
) -> Outcome:
    """Run one program; see `Program` for what it and its tests may do.

    Args:
      source: of the program.
      tests: code that calls `program.NAME(...)`; None: the program is a script.
      stdin: what the program reads.
      limits: of time, memory, files, output and processes.
      require: a level of `jlab.jobs.layers.LEVELS`, or some of `ATTACKS` that must be contained.

    Raises:
      PermissionError: a layer that `require` asks for is missing; nothing is run then.
      ValueError: `require` names no level or attack, or the tests are not valid Python.
      OSError: this system does not let the sandbox work at all.
    """
    program = Program(source, tests, stdin)
    (outcome,) = run_many([program], workers=1, limits=limits, require=require)
    return outcome


def run_many(
    programs: Sequence[Program],
    *,
    workers: int | None = None,
    limits: Limits = DEFAULT_LIMITS,
    require: str | Collection[str] = "namespace",
    store: Store | None = None,
    progress: Progress | None = None,
) -> list[Outcome]:
    """Run programs, equal ones once; the outcomes in their order.

    Args:
      programs: to run.
      workers: how many run at the same time; None: one per processor.
      limits: of each program.
      require: as for `run`.
      store: keeps the outcomes as they come; what it has is not run again.
      progress: hears of every program that has ended.

    Raises:
      PermissionError, ValueError, OSError: as for `run`.
    """
    if workers is None:
        workers = len(os.sched_getaffinity(0))
    if workers < 1:
        raise ValueError(f"workers must be >= 1; got {workers}")
    key = content_hash if store is None else lambda parts: store.key(**parts)
    keys = [key({"program": asdict(program), "limits": asdict(limits)}) for program in programs]
    known = {key: _stored(store[key]) for key in keys if store is not None and key in store}
    todo = {key: program for key, program in zip(keys, programs, strict=True) if key not in known}
    fresh = list(todo)
    with closing(run_all(list(todo.values()), workers, limits, require)) as ends:
        for number, outcome in ends:
            known[fresh[number]] = outcome
            if store is not None:
                store.append(fresh[number], outcome._asdict())
            if progress is not None:
                progress(len(known), len(known.keys() | todo.keys()), outcome)
    return [known[key] for key in keys]


def active_layers() -> tuple[str, ...]:
    """The layers that programs run behind on this system, names of `jlab.jobs.layers.LAYERS`."""
    supervisor = Supervisor(DEFAULT_LIMITS)
    try:
        return supervisor.layers()
    finally:
        supervisor.close()


def _stored(row: dict) -> Outcome:
    return Outcome(**{**row, "layers": tuple(row["layers"])})
