"""Compile kernels for a GPU that is not there, and report what the compiler made of them.

The CUDA plug-in of jax compiles down to machine code from a description of the device alone: no
driver, no GPU. It must be of jaxlib's version and importable, with an assembler (`ptxas`) beside
it; `make aot` installs both apart from everything else and runs

    python -m pallas_kernels.aot [--only TEXT] [--target h100|a100] [--markdown FILE]

which prints registers, spills, shared memory and tensor-core instructions of every kernel of every
case. A spill, or a kernel that does not compile, makes it exit 1; a missing plug-in 2. Without a
plug-in, `--lower-only` goes as far as jax alone can. In Python: `compile_for(f, *shapes)`, with
JAX_PLATFORMS=cpu where there is no GPU.
"""

import argparse
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import jax
from rich.console import Console
from rich.progress import track

from pallas_kernels import aot_table, aot_target, apart
from pallas_kernels.aot_report import Kernel, Report, read_dumps, read_line
from pallas_kernels.aot_target import compiling_for, h100_topology, missing
from pallas_kernels.case import OPS, Case, cases, find
from pallas_kernels.chips import CHIPS, Chip

__all__ = ["Report", "compile_for", "h100_topology", "lower_only", "main", "missing"]


def lower_only(function: Callable[..., Any], *args: Any, target: str = "h100") -> str:
    """The lowered module, without a plug-in: kernels traced, layouts found, shared memory fits.

    Args:
      function: of the arrays alone.
      *args: arrays, or their shapes and types.
      target: a name of `chips.CHIPS`.
    """
    with compiling_for(CHIPS[target]):
        return jax.jit(function).trace(*args).lower(lowering_platforms=("cuda",)).as_text()


def compile_for(
    function: Callable[..., Any], *args: Any, target: str = "h100", name: str = "function"
) -> Report:
    """Compile a function of arrays for an absent GPU and report on each of its kernels.

    jax 0.10 keeps a Mosaic kernel for the life of the process and accounts for it once: there,
    compile the same kernel a second time in a fresh process.

    Args:
      function: of the arrays alone; its kernels are Mosaic's or Triton's.
      *args: arrays, or their shapes and types.
      target: a name of `chips.CHIPS`.
      name: for the report.

    Returns:
      The report; what the compiler refuses is its `error`.

    Raises:
      ModuleNotFoundError: where the plug-in or the assembler is missing.
    """
    chip = CHIPS[target]
    aot_target.topology(chip)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, _environment("MOSAIC_GPU_DUMP_TO", folder):
        try:
            kernels, error = _kernels(function, args, chip, Path(folder)), None
        except Exception as problem:  # whatever the compiler refuses is what there is to report
            kernels, error = (), apart.one_line(problem)
    return Report(name, time.perf_counter() - start, kernels, error)


def _kernels(
    function: Callable[..., Any], args: tuple[Any, ...], chip: Chip, dumps: Path
) -> tuple[Kernel, ...]:
    """The kernels of the compiled function."""
    text = _compile(function, args, chip)
    mosaic, triton = "mosaic_gpu" in text, "xla.gpu.triton" in text
    kernels = read_dumps(dumps)
    if mosaic and not kernels:
        raise RuntimeError("this process compiled the kernel before, and reports it only once")
    if not mosaic and not triton:
        raise RuntimeError("it compiles, but there is no kernel of Mosaic's or Triton's in it")
    return kernels + (_triton(function, args, chip) if triton else ())


def _compile(function: Callable[..., Any], args: tuple[Any, ...], chip: Chip) -> str:
    """Compile to machine code; the text of the compiled module."""
    sharding = aot_target.sharding(chip)
    shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tuple(args)
    )
    with compiling_for(chip):
        return jax.jit(function).lower(*shapes).compile().as_text()


def _triton(function: Callable[..., Any], args: tuple[Any, ...], chip: Chip) -> tuple[Kernel, ...]:
    """What can be learnt of Triton's kernels: the largest demand for shared memory.

    The compiler names a kernel's demand only where it refuses it, so the function is compiled for
    chips with as much as the last refusal named, until none is refused.
    """
    shared = 0
    while True:
        try:
            _compile(function, args, chip._replace(shared_per_block=max(shared, 1)))
        except jax.errors.JaxRuntimeError as refusal:
            wanted = re.search(r"requested (\d+)", str(refusal))
            if wanted is None:
                raise
            shared = int(wanted.group(1))
        else:
            return (Kernel("triton", None, (), None, None, shared, None, None, None),)


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    """Set an environment variable, which is how Mosaic is told to write its dumps."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        del os.environ[name]
        if before is not None:
            os.environ[name] = before


def report_on(case: Case, backend: str, target: str, lower: bool) -> Report:
    """The report of one case with one implementation, compiled in this process."""
    function = case.on(backend)
    name = case.name if backend == "mosaic_gpu" else f"{case.name} [{backend}]"
    if not lower:
        return compile_for(function, *case.args, target=target, name=name)
    start = time.perf_counter()
    try:
        text, error = lower_only(function, *case.args, target=target), None
        if "mosaic_gpu" not in text and "xla.gpu.triton" not in text:
            error = "it lowers, but there is no kernel of Mosaic's or Triton's in it"
    except Exception as problem:  # as in `compile_for`
        error = apart.one_line(problem)
    return Report(name, time.perf_counter() - start, (), error)


def _apart(job: tuple[str, str], flags: Sequence[str]) -> Report:
    """The report of one case from a process of its own."""
    name, backend = job
    outcome = apart.run("pallas_kernels.aot", ["--worker", name, backend, *flags], timeout=900)
    return read_line(outcome.line) if outcome.line else Report(name, 0.0, (), outcome.error)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser("python -m pallas_kernels.aot", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--only", default="", help="cases with a word that begins so")
    parser.add_argument("--target", choices=sorted(CHIPS), default="h100", help="the absent GPU")
    parser.add_argument("--markdown", type=Path, help="write the table to this file too")
    parser.add_argument("--lower-only", action="store_true", help="no plug-in: stop after lowering")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="cases at the same time")
    parser.add_argument("--wheels", action="store_true", help="print what to install, and end")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Compile the cases and print the table; the exit status."""
    given = _arguments(argv)
    if given.wheels:
        print(*aot_target.wheels())
        return 0
    if given.worker:
        name, backend = given.worker
        print(report_on(find(name), backend, given.target, given.lower_only).line())
        return 0
    if not given.lower_only and (reason := missing()):
        print(f"nothing was compiled: {reason}", file=sys.stderr)
        return 2
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # for the workers: not to look for a driver
    hopper = CHIPS[given.target].capability == (9, 0)
    wanted = [b for b in ("mosaic_gpu", "triton") if hopper or b == "triton"]
    jobs = [(c.name, b) for c in cases(given.only) for b in wanted if b in c.backends]
    if not jobs:
        of = ", ".join(OPS)
        print(f"no case of {of} has a word that begins with {given.only!r}", file=sys.stderr)
        return 2
    flags = ["--target", given.target, *["--lower-only"] * given.lower_only]
    console = Console(width=None if sys.stdout.isatty() else 160)
    with ThreadPoolExecutor(given.jobs) as pool:
        done = pool.map(partial(_apart, flags=flags), jobs)
        reports = list(track(done, "compiling", len(jobs), console=console, transient=True))
    title = aot_table.title(CHIPS[given.target].name, given.lower_only)
    console.print(aot_table.table(reports, title))
    if given.markdown:
        given.markdown.write_text(aot_table.markdown(reports, title))
    return 0 if all(report.passed for report in reports) else 1


if __name__ == "__main__":
    sys.exit(main())
