"""The benchmark: `python -m pallas_kernels.bench [--only TEXT] [--rounds 30] [--quick]`.

On a GPU every case is first compared with its definition in float64 at real size, then timed in
turns with its peers; results.json, results.md and results.png go to pallas_kernels/results/DEVICE.
Without a GPU nothing is timed: kernels are interpreted at their smallest shapes, and the simulators
and the roofline account are printed.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import jax
from rich.console import Console
from rich.progress import track
from rich.table import Table

from pallas_kernels import apart, bench_case, bench_offline, bench_report, chips, roofline
from pallas_kernels.bench_case import Result
from pallas_kernels.case import OPS, Case, cases, find

RESULTS = Path(__file__).parent / "results"
TIMEOUT = 900  # seconds for one case with all its peers; a kernel that hangs is ended then


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser("python -m pallas_kernels.bench", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--only", default="", help="cases with a word that begins so")
    parser.add_argument("--rounds", type=int, default=30, help="rounds of timing on a GPU")
    parser.add_argument("--quick", action="store_true", help="no GPU: leave out the interpreter")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where DEVICE's folder goes")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    given = parser.parse_args(argv)
    if given.rounds < 1:
        parser.error(f"--rounds must be at least 1; got {given.rounds}")
    return given


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark, or what of it needs no GPU; the exit status."""
    given = _arguments(argv)
    # Peers from torch need room on the device beside jax, which would take most of it at once.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    if given.worker:
        print(bench_case.run(find(given.worker), given.rounds).line())
        return 0
    chosen = cases(given.only)
    if not chosen:
        of = ", ".join(OPS)
        print(f"no case of {of} has a word that begins with {given.only!r}", file=sys.stderr)
        return 2
    console = Console(width=None if sys.stdout.isatty() else 160)
    device = jax.devices()[0]
    if device.platform != "gpu":
        kind = device.device_kind
        console.print(f"No GPU here (jax runs on {kind}): nothing is timed, no file is written.")
        return bench_offline.run(chosen, console, interpret=not given.quick)
    return _on_gpu(chosen, given, console)


def _on_gpu(chosen: Sequence[Case], given: argparse.Namespace, console: Console) -> int:
    """Check and time the cases, print the table and write it."""
    device = jax.devices()[0].device_kind
    ceilings = roofline.measured(chips.find(device), given.rounds)
    rows = []
    for case in track(chosen, "checking and timing", console=console, transient=True):
        arguments = ["--worker", case.name, "--rounds", str(given.rounds)]
        outcome = apart.run("pallas_kernels.bench", arguments, TIMEOUT)
        lost = Result(case.name, None, None, {}, {"kernel": outcome.error})
        result = bench_case.read_line(outcome.line) if outcome.line else lost
        rows.append(bench_report.row(case, result, ceilings))
    setting = bench_report.Setting(device, ceilings, given.rounds)
    table = Table(*bench_report.HEADER, title=f"{device}, jax {jax.__version__}")
    for row in rows:
        table.add_row(*bench_report.cells(row), style=None if row.result.timing else "red")
    console.print(table)
    files = bench_report.write(given.results / bench_report.slug(device), rows, setting)
    console.print("written:", *files)
    return 0 if all(row.result.timing for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
