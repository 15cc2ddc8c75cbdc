"""What the benchmark can say without a GPU: are the kernels right, and what would bound them."""

from collections.abc import Sequence

from rich.console import Console
from rich.progress import track
from rich.table import Table

from pallas_kernels import _compat, bench_case
from pallas_kernels.apart import one_line
from pallas_kernels.case import Case
from pallas_kernels.chips import CHIPS, H100
from pallas_kernels.grid import supertile
from pallas_kernels.roofline import data_sheet, floor
from pallas_kernels.traffic import Layout, bank_conflicts, l2_traffic, pipeline_throughput


def run(chosen: Sequence[Case], console: Console, *, interpret: bool) -> int:
    """Print the checks, the simulations and the account; 1 if a check failed."""
    passed = not interpret or _checks(chosen, console)
    console.print(account(chosen))
    for table in simulations():
        console.print(table)
    return 0 if passed else 1


def _checks(chosen: Sequence[Case], console: Console) -> bool:
    """Interpret one case of each op at its smallest shapes; whether all are right."""
    first = {case.op: case for case in reversed(chosen) if case.small}
    table = Table("op", "error", "allowed", "verdict", title="interpreted at the smallest shapes")
    verdicts = []
    small = [case for case in chosen if first.get(case.op) is case]
    for case in track(small, "interpreting", console=console, transient=True):
        error, verdict = interpreted(case)
        verdicts.append(verdict)
        table.add_row(case.op, error, f"{case.tolerance:.0e}", verdict)
    console.print(table)
    return all(verdict == "ok" for verdict in verdicts)


def interpreted(case: Case) -> tuple[str, str]:
    """Error and verdict of one kernel in the interpreter, its race detector on."""
    try:
        kernel = case.on(case.backends[0], interpret=True)
        error = bench_case.check(case, kernel, case.small)
    except Exception as problem:  # noted in the table; the next kernel is interpreted all the same
        _compat.reset_interpreter()
        return "-", one_line(problem)
    if _compat.races_found():
        return f"{error.value:.1e}", "threads race for memory"
    return f"{error.value:.1e}", "ok" if error.value <= case.tolerance else "wrong"


def account(chosen: Sequence[Case]) -> Table:
    """Operations, bytes and least time of every case on every chip, from data sheets."""
    table = Table(
        "case",
        "GFLOP",
        "MB",
        "FLOP / byte",
        "bound (H100)",
        *(f"floor ms {name.upper()}" for name in CHIPS),
        title="roofline account: least time by the data sheets, not a measurement",
    )
    for case in chosen:
        floors = [floor(case, data_sheet(chip)) for chip in CHIPS.values()]
        h100 = floor(case, data_sheet(H100))
        table.add_row(
            case.name,
            f"{case.flops / 1e9:.1f}",
            f"{case.bytes / 1e6:.1f}",
            f"{h100.intensity:.0f}",
            h100.bound,
            *(f"{least.seconds * 1e3:.3f}" for least in floors),
        )
    return table


def simulations() -> tuple[Table, ...]:
    """The three models of the machine: block order, pipeline depth, shared-memory layout."""
    order = Table("rows of a band", "GB read", title="16384^3 product, order of the blocks (model)")
    for width in (1, 4, 8, 12, 16):
        read = l2_traffic(lambda *task, w=width: supertile(*task, w), 16384, 16384, 16384)
        order.add_row(str(width), f"{read / 1e9:.1f}")
    depth = Table("stages", "consumers busy", title="load-compute-finish loop, depth (model)")
    for stages in (1, 2, 3, 4, 6, 8):
        depth.add_row(str(stages), f"{pipeline_throughput(stages):.0%}")
    layout = Table("layout", "row", "column", title="bank conflicts of 16-byte reads (model)")
    for name, one in (
        ("128-byte rows", Layout(128)),
        ("padded by 16 bytes", Layout(128, padding=16)),
        ("32-byte swizzle", Layout(32, swizzle=32)),
        ("64-byte swizzle", Layout(64, swizzle=64)),
        ("128-byte swizzle", Layout(128, swizzle=128)),
    ):
        layout.add_row(name, *(f"{ways}-way" for ways in bank_conflicts(one)))
    return order, depth, layout
