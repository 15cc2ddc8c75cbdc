"""Evaluations that keep every number as it is measured: what was stopped goes on where it was."""

import shlex
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from evals.finished import folder_of
from jlab.cli import claim_number

if TYPE_CHECKING:
    from jlab.jobs.results import Store
    from jlab.training.run import Run

Found = TypeVar("Found")
Stop = Callable[[], bool]


def measure_and_write(
    evaluation: str,
    config: Any,
    read: Callable[[], tuple[Mapping[str, str], Callable[["Store", Stop], Found]]],
    write: Callable[["Run", Found], tuple[dict[str, Any], str]],
) -> int:
    """Measure what the store below the results lacks, then write results and print them.

    Args:
      evaluation: its name; results go below `runs/` under it, unless the config's `out` says where.
      config: of the evaluation, with a field `out`.
      read: everything that can be refused, so that bad input leaves nothing behind. Returns the
        digests of the data and what measures, with the store and whether a signal asked to stop.
      write: plots into the folder. Returns the summary and its page.

    Returns:
      The exit status: 0, as well for what a signal stopped.

    Raises:
      UsageError: `out` holds results of something else.
    """
    from jlab.jobs import open_store
    from jlab.training.config import to_dict
    from jlab.training.devices import environment, use_compilation_cache
    from jlab.training.run import Run
    from jlab.training.signals import Interrupted, stop_on_signal

    runs = Path("runs") / evaluation
    folder = folder_of(config.out, evaluation)
    use_compilation_cache()
    try:
        with stop_on_signal() as stop:
            fingerprints, measure = read()
            with open_store((folder or runs) / "measured", {"evaluation": evaluation}) as store:
                found = measure(store, stop)
    except Interrupted as stopped:
        command = shlex.join(["python", "-m", "evals", *sys.argv[1:]])
        print(f"{stopped}; go on with: {command}", file=sys.stderr, flush=True)
        return 0
    out = Run(folder or runs / f"{claim_number(runs):03d}", evaluation)
    with out.locked():
        record = {"evaluation": evaluation, "config": to_dict(config)}
        data = dict(fingerprints)
        out.write_config({**record, "fingerprints": data, "environment": environment()})
        summary, text = write(out, found)
        out.write_summary(summary, text)
    print(text, end="")
    out.say(f"results in {out.path}")
    return 0
