"""Plots of a precision sweep: what each bit costs, after training and in it."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jlab.training.plots import COLORS, figure
from jlab.training.run import Run
from train.precision_sweep_report import FULL, costs, kinds_of, trained
from train.precision_units import SHORT

MARKS = "os^Dv<>p"


def plots(out: Run, rows: Sequence[Mapping[str, Any]]) -> None:
    """`after_training.png`, `in_training.png`, `robust.png`, of what there is."""
    _after_training(out, rows)
    _in_training(out, rows)
    _robust(out, rows)


def _mean(values: Mapping[int, float]) -> float:
    return float(np.mean(list(values.values()))) if values else np.nan


def _after_training(out: Run, rows: Sequence[Mapping[str, Any]]) -> None:
    """Cost of rounding against D / N, and the loss that is left against D; a mark per size."""
    before, cost = trained(rows), costs(rows)
    kinds = kinds_of(rows, FULL)
    cells = sorted(cell[:2] for cell in before if cell[2:] == FULL)
    sizes = sorted({N for N, _ in cells})
    if not kinds:
        return
    with figure(2) as (made, axes):
        rise, left = axes[0]
        for N, mark in zip(sizes, MARKS, strict=False):
            D = np.array([d for n, d in cells if n == N])
            base = np.array([_mean(before[N, d, *FULL]) for d in D])
            left.plot(D, base, f"k{mark}-", ms=3)
            for place, kind in enumerate(kinds):
                delta = np.array([_mean(cost.get((N, d, *FULL, *kind), {})) for d in D])
                style = {"c": COLORS[place % len(COLORS)], "marker": mark, "ms": 4, "lw": 1}
                rise.plot(D / N, np.where(delta > 0, delta, np.nan), **style)
                left.plot(D, base + delta, **style)
        for place, kind in enumerate(kinds):
            rise.plot([], [], c=COLORS[place % len(COLORS)], label=" ".join(kind))
        for N, mark in zip(sizes, MARKS, strict=False):
            rise.plot([], [], f"k{mark}", ms=4, label=f"N = {N:,}")
        rise.set(xscale="log", yscale="log", xlabel="tokens per parameter, D / N")
        rise.set(ylabel="cost of rounding (nats)")
        left.set(xscale="log", xlabel="tokens D", ylabel="loss, black as trained (nats)")
        left.set_xticks(sorted({d for _, d in cells}))
        left.xaxis.set_major_formatter(lambda d, _: f"{d / 1e6:.2g}M" if d >= 1e5 else f"{d:.0f}")
        left.minorticks_off()
        made.legend(loc="outside lower center", ncols=4)
        out.plot("after_training", made)


def _in_training(out: Run, rows: Sequence[Mapping[str, Any]]) -> None:
    """Excess loss against bits, a panel per part."""
    before = trained(rows)
    bits = {row[f"format_{part}"]: row[short] for row in rows for part, short in SHORT.items()}
    there = [
        part for i, part in enumerate(SHORT) if any(cell[2 + i] for cell in before if _one(cell))
    ]
    if not there:
        return
    with figure(len(there), size=(3.4, 3.2), sharey=True) as (made, axes):
        for axis, part in zip(axes[0], there, strict=True):
            place = list(SHORT).index(part)
            cells = sorted({cell[:2] for cell in before if _one(cell) and cell[2 + place]})
            for i, (N, D) in enumerate(cells):
                full = before.get((N, D, *FULL), {})
                low = {c[2 + place]: v for c, v in before.items() if c[:2] == (N, D) and _one(c)}
                points = []
                for name, losses in low.items():
                    seeds = set(losses) & set(full)
                    if name and seeds:
                        points.append((bits[name], np.mean([losses[s] - full[s] for s in seeds])))
                if points:
                    P, excess = np.array(sorted(points)).T
                    excess = np.where(excess > 0, excess, np.nan)
                    mark = MARKS[i % len(MARKS)]
                    axis.plot(P, excess, f"{mark}-", ms=4, lw=1, label=f"N {N:,}, D {D:,}")
            axis.set(title=part, xlabel="bits in training", yscale="log")
            axis.set_xticks(sorted({bits[cell[2 + place]] for cell in before if cell[2 + place]}))
        axes[0, 0].set_ylabel("loss above full precision (nats)")
        made.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
        out.plot("in_training", made)


def _one(cell: tuple) -> bool:
    return sum(name is not None for name in cell[2:]) == 1


def _robust(out: Run, rows: Sequence[Mapping[str, Any]]) -> None:
    """Cost of rounding against the bits that the weights were trained in, a panel per cell."""
    cost = costs(rows)
    bits = {row["format_weights"]: row["Pw"] for row in rows}
    weights = [key for key in cost if key[2] and key[3:5] == (None, None)]
    cells = sorted({key[:2] for key in weights})[:8]
    if not cells:
        return
    columns = min(4, len(cells))
    with figure(columns, -(-len(cells) // columns), size=(3.0, 2.8), sharey=True) as (made, axes):
        for axis in axes.flat[len(cells) :]:
            axis.set_axis_off()
        for axis, (N, D) in zip(axes.flat, cells, strict=False):
            here = [key for key in weights if key[:2] == (N, D)]
            for place, kind in enumerate(kinds_of(rows, FULL)):
                points = sorted((bits[key[2]], _mean(cost[key])) for key in here if key[5:] == kind)
                if points:
                    P, delta = np.array(points).T
                    color = COLORS[place % len(COLORS)]
                    axis.plot(P, delta, "o-", c=color, ms=4, label=" ".join(kind))
                    axis.axhline(_mean(cost.get((N, D, *FULL, *kind), {})), c=color, ls=":", lw=1)
            axis.set(title=f"N {N:,}, D {D:,}", xlabel="bits in training", yscale="log")
            axis.set_xticks(sorted({bits[key[2]] for key in here}))
        axes[0, 0].set_ylabel("cost of rounding (nats)")
        made.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
        made.suptitle("weights rounded after training; dotted: trained at full precision")
        out.plot("robust", made)
