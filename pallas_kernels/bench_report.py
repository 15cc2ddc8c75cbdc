"""The benchmark's results as numbers, as a page and as a picture."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from pallas_kernels.bench_case import Result
from pallas_kernels.case import Case
from pallas_kernels.roofline import Ceilings, floor


class Setting(NamedTuple):
    """What all rows have in common."""

    device: str
    ceilings: Ceilings
    rounds: int


class Row(NamedTuple):
    """One case with everything that the table says of it."""

    result: Result
    flops: float
    bytes: int
    floor_seconds: float
    """Least time under the measured ceilings."""
    bound: str

    @property
    def share(self) -> float | None:
        """The floor over the kernel's time: 1 is as fast as the measured ceilings allow."""
        timing = self.result.timing
        return self.floor_seconds / timing.seconds if timing else None

    @property
    def best_peer(self) -> str | None:
        """The fastest peer that ran."""
        return min(self.result.peers, key=lambda p: self.result.peers[p].seconds, default=None)

    @property
    def ratio(self) -> float | None:
        """Time of the best peer over ours: above 1 ours is faster."""
        if self.best_peer is None or self.result.timing is None:
            return None
        return self.result.peers[self.best_peer].seconds / self.result.timing.seconds

    @property
    def rate(self) -> str:
        """Operations per second where those are the bound, else bytes per second."""
        timing = self.result.timing
        if timing is None:
            return "-"
        if self.bound == "arithmetic":
            return f"{self.flops / timing.seconds / 1e12:.0f} TFLOP/s"
        return f"{self.bytes / timing.seconds / 1e9:.0f} GB/s"


def row(case: Case, result: Result, ceilings: Ceilings) -> Row:
    """A result beside what its case could at best take."""
    least = floor(case, ceilings)
    return Row(result, case.flops, case.bytes, least.seconds, least.bound)


HEADER = (
    "case",
    "error",
    "ms (median)",
    "10-90 %",
    "rate",
    "of ceiling",
    "best peer",
    "peer ms",
    "peer / ours",
)


def cells(one: Row) -> tuple[str, ...]:
    """One line of the table."""
    result, timing = one.result, one.result.timing
    error = f"{result.error.value:.1e} ({result.error.against})" if result.error else "-"
    if timing is None:
        return (result.name, error, result.failures["kernel"], *[""] * 6)
    best = one.best_peer
    return (
        result.name,
        error,
        f"{timing.seconds * 1e3:.3f}",
        f"{timing.low * 1e3:.3f}-{timing.high * 1e3:.3f}",
        one.rate,
        f"{one.share:.0%}",
        best or "-",
        f"{result.peers[best].seconds * 1e3:.3f}" if best else "-",
        f"{one.ratio:.2f}" if best else "-",
    )


def markdown(rows: Sequence[Row], setting: Setting) -> str:
    """The table, every peer's time, and what each number means."""
    device, ceilings, rounds = setting
    lines = [HEADER, ("---",) * len(HEADER), *map(cells, rows)]
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    peers = "\n".join(f"- {one.result.name}: {_peers(one.result)}" for one in rows)
    return f"""# {device}, jax {jax.__version__}

Measured ceilings: {ceilings.operations / 1e12:.0f} TFLOP/s (XLA's product of 16-bit squares),
{ceilings.bandwidth / 1e9:.0f} GB/s (copy). Medians over {rounds} rounds in which all contenders
take turns on rotated inputs, launches included. error: largest over the outputs of
max |kernel - reference| / max |reference|; of ceiling: the least time under the measured ceilings
over the median; peer / ours: above 1 ours is faster.

{table}

All peers:

{peers}
"""


def _peers(result: Result) -> str:
    """Each peer's time, or why it has none."""
    ran = [f"{name} {timing.seconds * 1e3:.3f} ms" for name, timing in result.peers.items()]
    return "; ".join(ran + [f"{name}: {why}" for name, why in result.failures.items()]) or "none"


def write(folder: Path, rows: Sequence[Row], setting: Setting) -> tuple[Path, ...]:
    """Write results.json, results.md and results.png; the files."""
    folder.mkdir(parents=True, exist_ok=True)
    files = tuple(folder / f"results.{kind}" for kind in ("json", "md", "png"))
    record = {
        "device": setting.device,
        "jax": jax.__version__,
        "rounds": setting.rounds,
        "ceilings": setting.ceilings._asdict(),
        "cases": [_record(one) for one in rows],
    }
    files[0].write_text(json.dumps(record, indent=1) + "\n")
    files[1].write_text(markdown(rows, setting))
    _plot(rows, setting.device, files[2])
    return files


def _record(one: Row) -> dict[str, Any]:
    """A row with all its numbers."""
    return json.loads(one.result.line()) | {
        "flops": one.flops,
        "bytes": one.bytes,
        "floor_seconds": one.floor_seconds,
        "bound": one.bound,
        "share_of_ceiling": one.share,
        "best_peer": one.best_peer,
        "peer_over_ours": one.ratio,
    }


def _plot(rows: Sequence[Row], device: str, file: Path) -> None:
    """Bars: share of the measured ceiling that ours and the best peer reach."""
    from matplotlib.figure import Figure

    timed = [one for one in rows if one.result.timing][::-1]
    figure = Figure(figsize=(9, 1.2 + 0.32 * len(timed)), layout="constrained")
    axes = figure.add_subplot()
    places = range(len(timed))
    axes.barh([p + 0.2 for p in places], [100 * one.share for one in timed], 0.4, label="ours")
    theirs = [100 * one.share / one.ratio if one.ratio else 0 for one in timed]
    axes.barh([p - 0.2 for p in places], theirs, 0.4, label="best peer", color="0.7")
    for place, one, percent in zip(places, timed, theirs, strict=True):
        axes.text(percent + 1, place - 0.2, one.best_peer or "", va="center", fontsize=7)
    axes.set_yticks(list(places), [one.result.name for one in timed], fontsize=8)
    axes.set_xlabel("% of the measured ceiling (higher is faster)")
    axes.set_title(device, fontsize=10)
    axes.set_xlim(0, 110)
    axes.legend(loc="lower right", fontsize=8)
    figure.savefig(file, dpi=150)


def slug(device: str) -> str:
    """A folder's name for a device.

    >>> slug("NVIDIA H100 80GB HBM3")
    'nvidia_h100_80gb_hbm3'
    """
    return re.sub(r"\W+", "_", device.lower()).strip("_")
