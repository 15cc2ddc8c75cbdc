"""The reports of `aot` as a table, for the terminal and for a page."""

from collections.abc import Sequence
from typing import Any

import jax
from rich.markup import escape
from rich.table import Table

from pallas_kernels import aot_target
from pallas_kernels.aot_report import Kernel, Report

HEADER = ("case", "kernel", "registers", "spills", "shared KB", "wgmma", "TMA", "s", "verdict")
NOTES = (
    "registers: per thread at the launch (producers/consumers after reallocation); spills: bytes"
    " stored/loaded; shared: per block; wgmma, TMA: instructions in the code; s: seconds to compile"
)


def title(chip: str, lower_only: bool) -> str:
    """With what the kernels were compiled, or that they were not."""
    if lower_only:
        return f"lowered for {chip} by jax {jax.__version__}, not compiled"
    return f"compiled for {chip} by jax {jax.__version__} and {aot_target.assembler()}"


def rows(report: Report) -> list[tuple[str, ...]]:
    """The table's lines of one report: one per kernel, or one that says how far it got."""
    seconds = f"{report.seconds:.1f}"
    if not report.kernels:
        return [(report.name, *[""] * 6, seconds, report.error or "lowers")]
    return [
        (
            "" if i else report.name,
            kernel.name,
            _registers(kernel),
            _known(kernel.spill_stores, f"{kernel.spill_stores}/{kernel.spill_loads}"),
            f"{kernel.shared_bytes / 1024:.1f}",
            _known(kernel.wgmma),
            _known(kernel.tma),
            "" if i else seconds,
            _verdict(kernel),
        )
        for i, kernel in enumerate(report.kernels)
    ]


def _registers(kernel: Kernel) -> str:
    """Registers at the launch, and after reallocation in brackets."""
    after = "/".join(map(str, kernel.reallocated))
    return _known(kernel.registers, f"{kernel.registers} ({after})" if after else None)


def _known(value: Any, shown: str | None = None) -> str:
    """A value, or a dash for what the compiler does not tell."""
    return "-" if value is None else shown or str(value)


def _verdict(kernel: Kernel) -> str:
    """Passed, or what speaks against the kernel."""
    if kernel.spills:
        return "spills"
    return f"ok; wgmma serialised: {kernel.serialized}" if kernel.serialized else "ok"


def markdown(reports: Sequence[Report], heading: str) -> str:
    """The reports as a Markdown table."""
    lines = [HEADER, ("---",) * len(HEADER), *(row for r in reports for row in rows(r))]
    cells = (" | ".join(cell.replace("|", "\\|") for cell in line) for line in lines)
    table_ = "\n".join(f"| {line} |" for line in cells)
    return f"{_summary(reports, heading)}\n\n{table_}\n\n{NOTES}\n"


def table(reports: Sequence[Report], heading: str) -> Table:
    """The reports as a table for the terminal."""
    shown = Table(*HEADER, title=_summary(reports, heading), caption=NOTES)
    for report in reports:
        for row in rows(report):
            shown.add_row(*map(escape, row), style=None if report.passed else "red")
    return shown


def _summary(reports: Sequence[Report], heading: str) -> str:
    """The heading with the verdict in numbers."""
    kernels = sum(len(r.kernels) for r in reports)
    failed = sum(not r.passed for r in reports)
    return f"{len(reports)} cases, {kernels} kernels, {failed} failed; {heading}"
