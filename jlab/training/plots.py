"""The one plot style, and the plots that every run on a mixture has."""

from collections.abc import Sequence
from contextlib import contextmanager

import numpy as np

# Okabe and Ito's palette: told apart by readers with colour-blindness.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442", "#000000")


@contextmanager
def figure(columns: int = 1, rows: int = 1, size: tuple[float, float] = (5.0, 3.4), **options):
    """A matplotlib figure in the shared style with its axes as an array; closed afterwards."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    style = {
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.prop_cycle": matplotlib.cycler(color=COLORS),
        "axes.grid": True,
        "grid.alpha": 0.25,
        "font.size": 9,
        "legend.frameon": False,
    }
    with plt.rc_context(style):
        width, height = size
        made, axes = plt.subplots(
            rows,
            columns,
            figsize=(width * columns, height * rows),
            squeeze=False,
            layout="constrained",
            **options,
        )
        try:
            yield made, axes
        finally:
            plt.close(made)


def mixture_plots(out, arms: dict[str, list[dict]], names: Sequence[str]) -> None:
    """`proportions.png`, `loss_by_group.png`, and `matrix.png` where a matrix was learned.

    Args:
      out: the `Run` that keeps the plots.
      arms: logged rows by the label of the run they came from.
      names: of the groups.
    """
    proportions_plot(out, arms, names)
    loss_plot(out, arms, names)
    learned = [rows for rows in arms.values() if any("mixing/matrix" in row for row in rows)]
    if learned:  # one picture: of the first run that has a matrix
        matrix_plot(out, learned[0], names)


def proportions_plot(out, arms: dict[str, list[dict]], names: Sequence[str]) -> None:
    """`proportions.png`: one panel per run, one line per group."""
    columns = min(len(arms), 4)
    lines = -(-len(arms) // columns)
    with figure(columns, lines, size=(3.6, 3.0), sharey=True) as (made, axes):
        for axis, (label, rows) in zip(axes.flat, arms.items(), strict=False):
            _proportions(axis, rows, names)
            axis.set(title=label, xlabel="step")
        for axis in axes.flat[len(arms) :]:
            axis.set_axis_off()
        for row in axes:
            row[0].set_ylabel("proportion (thin: drawn)")
        made.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside right upper", fontsize=8)
        out.plot("proportions", made)


def loss_plot(out, arms: dict[str, list[dict]], names: Sequence[str]) -> None:
    """`loss_by_group.png`: one panel per group, one line per run."""
    with figure(len(names), size=(3.2, 3.0)) as (made, axes):
        for axis, name in zip(axes[0], names, strict=True):
            for place, (label, rows) in enumerate(arms.items()):
                style = {"ls": "-" if place < len(COLORS) else "--"}
                axis.plot(*series(rows, f"eval/loss/{name}"), label=label, lw=1.2, **style)
            axis.set(title=name, xlabel="step")
        axes[0, 0].set_ylabel("validation loss (nats)")
        made.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside right upper", fontsize=8)
        out.plot("loss_by_group", made)


def matrix_plot(out, rows: list[dict], names: Sequence[str]) -> None:
    """`matrix.png`: the learned matrix of the first, a middle and the last round.

    Rows are the groups that are evaluated, columns those trained on; positive entries help.
    """
    found = [row for row in rows if row.get("mixing/round_learned")]
    if not found:
        return
    chosen = [found[i] for i in sorted({0, len(found) // 2, len(found) - 1})]
    matrices = [np.array(row["mixing/matrix"], float) for row in chosen]
    limit = max(np.abs(matrix).max() for matrix in matrices) or 1.0
    with figure(len(chosen), size=(3.4, 3.0)) as (made, axes):
        for axis, row, matrix in zip(axes[0], chosen, matrices, strict=True):
            image = axis.imshow(matrix, cmap="RdBu", vmin=-limit, vmax=limit)
            axis.set_xticks(range(len(names)), names, rotation=45, ha="right")
            axis.set_yticks(range(matrix.shape[0]), names[: matrix.shape[0]])
            axis.set(title=f"step {row['step']}", xlabel="trained on")
            axis.grid(visible=False)
        axes[0, 0].set_ylabel("evaluated")
        made.colorbar(image, ax=axes[0].tolist(), label="loss decrease per probe (nats)")
        out.plot("matrix", made)


def series(rows: list[dict], name: str) -> tuple[list[int], list[float]]:
    """Steps and values of one logged number, without the lines that lack it."""
    pairs = {row["step"]: row[name] for row in rows if row.get(name) is not None}
    return list(pairs), list(pairs.values())


def _proportions(axis, rows: list[dict], names: Sequence[str]) -> None:
    """Bold: the mixture that the method has settled on; thin: what is drawn, probes included."""
    end = rows[-1]["step"] if rows else 0
    plans = [row for row in rows if "plan" in row and row["step"] < end]  # the last is not drawn
    learns = any("mixing/matrix" in row for row in rows)
    learned = [row["step"] for row in rows if row.get("mixing/round_learned")]
    # Plans say what the method stands at, and so do the steps of one that lives in the step.
    stands = [row for row in rows if "mixture" in row and row["step"] < end]
    settled = [row for row in stands if not learns or (learned and row["step"] >= learned[0])]
    for i, name in enumerate(names):
        color = COLORS[i % len(COLORS)]
        drawn = [(row["step"], row["plan"]["proportions"][i]) for row in plans]
        _steps(axis, drawn, end, color=color, lw=0.6, alpha=0.6)
        mixture = [(row["step"], row["mixture"][i]) for row in settled]
        _steps(axis, mixture, end, color=color, lw=1.8, label=name)
    axis.set_ylim(0, 1)


def _steps(axis, points: list[tuple[int, float]], end: int, **style) -> None:
    """Piecewise-constant curve whose last value holds to `end`; without points, just its label."""
    steps, values = zip(*points, (end, points[-1][1]), strict=True) if points else ((), ())
    axis.plot(steps, values, drawstyle="steps-post", **style)
