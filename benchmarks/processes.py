"""Ours and a peer in fresh processes by turns: each has memory and threads to itself."""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Collection

CORES = 2


def in_processes(
    module: str,
    description: str,
    peers: Collection[str],
    measure: Callable[[str, int], dict],
    repeats: int,
) -> dict[str, list[dict]]:
    """What `measure(peer, repeats)` finds of each peer, once per round.

    This process is the parent, or, with `--only`, a child that prints its part and ends.

    Args:
      module: whose `main` calls this; the children run it.
      description: of that module, for `--help`.
      peers: "torch" runs in the interpreter that `--torch-python` names.
      measure: of one peer, in this process; what it returns must go into JSON.
      repeats: timed calls per process, if the command line does not say.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--rounds", type=int, default=5, help="processes of each")
    parser.add_argument("--repeats", type=int, default=repeats, help="timed calls per process")
    parser.add_argument("--only", choices=peers, help="time one in this process, print JSON")
    parser.add_argument("--torch-python", default=sys.executable, help="interpreter with torch")
    options = parser.parse_args()
    if options.only:
        print(json.dumps(measure(options.only, options.repeats)))
        sys.exit()
    cores = sorted(os.sched_getaffinity(0))[:CORES]
    os.sched_setaffinity(0, cores)  # the children inherit it
    found: dict[str, list[dict]] = {name: [] for name in peers}
    for _ in range(options.rounds):
        for name, results in found.items():
            python = options.torch_python if name == "torch" else sys.executable
            command = [python, "-m", module, "--only", name, "--repeats", str(options.repeats)]
            said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            results.append(json.loads(said.splitlines()[-1]))
    return found


def seconds_of(function: Callable[[], object], calls: int) -> list[float]:
    """Seconds of each call."""
    seconds = []
    for _ in range(calls):
        begin = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - begin)
    return seconds


def first_and_median(function: Callable[[], object], repeats: int) -> dict[str, float]:
    """Seconds of the first call, which compiles, and the median of `repeats` more."""
    first, *others = seconds_of(function, repeats + 1)
    return {"first": first, "median": statistics.median(others)}


def times_and_ratios(ours: list[dict], theirs: list[dict]) -> str:
    """Cells of a table: ms of ours, of theirs, ratio and its range over rounds, our first call (s).

    Both as `first_and_median` gives them, one per round.
    """
    own, other = ([result["median"] for result in results] for results in (ours, theirs))
    ratios = [b / a for a, b in zip(own, other, strict=True)]
    first = statistics.median(result["first"] for result in ours)
    return (
        f"{1e3 * statistics.median(own):.2f} | {1e3 * statistics.median(other):.2f}"
        f" | {statistics.median(ratios):.2f} | {min(ratios):.2f} to {max(ratios):.2f} | {first:.1f}"
    )
