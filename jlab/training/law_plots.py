"""Plots of a mixing law: fit against runs, ranks at another scale, slices, the optimum.

A law is seen as `predict(p[..., m]) -> loss[..., k]`; the objective is the weighted mean of its
losses, in the unit of the table. `out` is the `Run` that keeps the plots.
"""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from jlab.training.plots import COLORS, figure

Objective = Callable[[Float[np.ndarray, "*points m"]], Float[np.ndarray, "*points"]]

_PANELS = 15  # of the fit, the objective's among them
_SLICED = 4  # groups whose pairs are shown
_FINE = 51  # points along an axis of a slice


def fit_plot(
    out, law: str, titles: Sequence[str], parts: dict[str, tuple[np.ndarray, np.ndarray]]
) -> None:
    """`fit_LAW.png`: observed against predicted loss, a panel per column.

    Args:
      out: keeps the plot.
      law: its name.
      titles: of the columns; the first ones are shown where there are too many.
      parts: predicted[n, columns] and observed[n, columns] by the name of the runs.
    """
    titles = titles[:_PANELS]
    columns = min(len(titles), 5)
    rows = -(-len(titles) // columns)
    with figure(columns, rows, size=(2.5, 2.5)) as (made, axes):
        for i, (axis, title) in enumerate(zip(axes.flat, titles, strict=False)):
            for (label, (predicted, observed)), color in zip(parts.items(), COLORS, strict=False):
                size = 4 if len(predicted) > 100 else 8
                axis.plot(predicted[:, i], observed[:, i], ".", c=color, ms=size, alpha=0.5, mew=0)
                axis.plot([], [], "o", c=color, ms=4, label=f"{label} runs")
            axis.axline(_middle(parts, i), slope=1, c="black", lw=0.8, ls="--", label="equal")
            axis.set_title(title, fontsize=8)
        for axis in axes.flat[len(titles) :]:
            axis.set_axis_off()
        made.supxlabel("predicted loss", fontsize=9)
        made.supylabel("observed loss", fontsize=9)
        made.suptitle(f"{law} law: R² on {' / '.join(parts)} runs", fontsize=10)
        axes[0, 0].legend(fontsize=7, handletextpad=0.2, borderaxespad=0)
        out.plot(f"fit_{law}", made)


def rank_plot(
    out, laws: dict[str, Float[np.ndarray, "n"]], observed: Float[np.ndarray, "n"]
) -> None:
    """`transfer.png`: the order in which each law puts runs of another scale, and their own.

    Args:
      out: keeps the plot.
      laws: predicted objective by the law's name.
      observed: objective of the runs.
    """
    from scipy.stats import rankdata, spearmanr

    with figure(len(laws), size=(3.3, 3.3), sharey=True) as (made, axes):
        for axis, (law, predicted) in zip(axes[0], laws.items(), strict=True):
            axis.axline((1, 1), slope=1, c="black", lw=0.8, ls="--", label="same order")
            axis.plot(rankdata(predicted), rankdata(observed), "o", ms=4, label="runs")
            rho = spearmanr(predicted, observed).statistic
            axis.set(title=f"{law} law, Spearman {rho:.2f}", aspect="equal")
            axis.set(xlabel="rank by the law (1: lowest loss)")
        axes[0, 0].set_ylabel("rank at the other scale")
        axes[0, 0].legend(fontsize=8, loc="upper left")
        out.plot("transfer", made)


def optimum_plot(
    out,
    groups: Sequence[str],
    optima: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]],
    best: Float[np.ndarray, "m"],
) -> None:
    """`optimum.png`: shares of each law's optimum with their intervals.

    Args:
      out: keeps the plot.
      groups: names.
      optima: share, low and high end of every group, by the law's name; ends may be nan.
      best: shares of the best run that was observed.
    """
    first = next(iter(optima.values()))[0]
    order = np.argsort(first, kind="stable")  # barh counts from below
    places = np.arange(len(groups))
    size = (3.6, 1.3 + 0.24 * len(groups))
    with figure(len(optima), size=size, sharey=True, sharex=True) as (made, axes):
        for axis, (law, (share, low, high)), color in zip(
            axes[0], optima.items(), COLORS, strict=False
        ):
            axis.barh(places, share[order], color=color, alpha=0.45, label="optimum")
            ends = np.array([low[order], high[order]])
            if np.isfinite(ends).all():
                axis.hlines(places, *ends, color=color, lw=2, label="its 95 % interval")
                axis.plot(ends, np.stack([places, places]), "|", c=color, mew=2, ms=7)
            axis.plot(best[order], places, "D", c="black", ms=3.5, label="best run observed")
            axis.axvline(1 / len(groups), c="black", lw=0.8, ls="--", label="uniform")
            axis.set(title=f"{law} law", xlabel="share", ylim=(-0.6, len(groups) - 0.4))
            axis.grid(visible=False, axis="y")
        axes[0, 0].set_yticks(places, [groups[i] for i in order])
        labels = axes[0, 0].get_legend_handles_labels()
        made.legend(*labels, loc="outside lower center", ncols=2 * len(optima), fontsize=8)
        out.plot("optimum", made)


def slice_plot(
    out,
    law: str,
    groups: Sequence[str],
    objective: Objective,
    runs: tuple[Float[np.ndarray, "n m"], Float[np.ndarray, "n"]],
    optima: Float[np.ndarray, "samples m"],
) -> None:
    """`slices_LAW.png`: the predicted objective over the mixtures.

    Two groups: a curve. Three: the whole simplex. More: the pairs of the four that move it most,
    the others keeping the ratio that they have in the optimum.

    Args:
      out: keeps the plot.
      law: its name.
      groups: names.
      objective: mixtures -> predicted objective.
      runs: mixtures and observed objective.
      optima: the law's optimum, then those of its refits.
    """
    if len(groups) == 2:
        _curve(out, law, groups, objective, runs, optima)
    elif len(groups) == 3:
        _simplex(out, law, groups, objective, runs, optima)
    else:
        _pairs(out, law, groups, objective, runs, optima)


def _curve(out, law, groups, objective, runs, optima) -> None:
    share = np.linspace(0, 1, _FINE)
    with figure(size=(4.6, 3.4)) as (made, axes):
        axis = axes[0, 0]
        axis.plot(share, objective(np.stack([share, 1 - share], 1)), label=f"{law} law")
        axis.plot(runs[0][:, 0], runs[1], "o", ms=4, c=COLORS[1], label="runs")
        axis.axvline(optima[0, 0], c="black", lw=1, label="optimum")
        if len(optima) > 1:
            low, high = np.quantile(optima[1:, 0], [0.025, 0.975])
            axis.axvspan(low, high, color="black", alpha=0.12, lw=0, label="its 95 % interval")
        axis.set(xlabel=f"share of {groups[0]} (the rest: {groups[1]})", ylabel="objective")
        axis.legend(fontsize=8)
        out.plot(f"slices_{law}", made)


def _simplex(out, law, groups, objective, runs, optima) -> None:
    corners = np.array([[0, 0], [1, 0], [0.5, np.sqrt(0.75)]])
    mixtures = _grid(1.0)
    flat = mixtures @ corners
    values, levels = _levels(objective(mixtures), runs[1])
    with figure(size=(5.6, 4.6)) as (made, axes):
        axis = axes[0, 0]
        style = {"cmap": "viridis", "vmin": levels[0], "vmax": levels[-1]}
        filled = axis.tricontourf(*flat.T, values, levels, extend="max", **style)
        at = runs[0] @ corners
        axis.scatter(*at.T, c=runs[1], edgecolors="white", s=42, label="runs, as observed", **style)
        _marks(axis, optima @ corners)
        for corner, name, side in zip(corners, groups, ("top", "top", "bottom"), strict=True):
            gap = 0.03 if side == "bottom" else -0.03
            axis.text(corner[0], corner[1] + gap, f"only {name}", ha="center", va=side)
        axis.set(aspect="equal", title=f"{law} law", xlim=(-0.06, 1.06), ylim=(-0.1, 0.97))
        axis.set_axis_off()
        axis.legend(fontsize=8, loc="upper left")
        made.colorbar(filled, label="predicted objective", shrink=0.8, format="%.3g")
        out.plot(f"slices_{law}", made)


def _pairs(out, law, groups, objective, runs, optima) -> None:
    chosen = _influential(objective, np.maximum(runs[0].max(0), optima[0]))
    pairs = [(a, b) for i, a in enumerate(chosen) for b in chosen[i + 1 :]]
    slices = [_slice(objective, optima[0], a, b) for a, b in pairs]
    _, levels = _levels(np.concatenate([values for _, values in slices]), runs[1])
    with figure(3, 2, size=(3.1, 2.9)) as (made, axes):
        for axis, (a, b), (shares, values) in zip(axes.flat, pairs, slices, strict=True):
            shown = np.minimum(values, levels[-1] * 2)
            filled = axis.tricontourf(*shares.T, shown, levels, cmap="viridis", extend="max")
            axis.plot(*runs[0][:, [a, b]].T, ".", c="white", ms=3, mew=0, alpha=0.7)
            axis.plot([], [], "o", c="silver", ms=4, label="runs (the other shares differ)")
            _marks(axis, optima[:, [a, b]])
            axis.set(xlabel=f"share of {groups[a]}", ylabel=f"share of {groups[b]}")
            axis.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
        made.colorbar(filled, ax=axes.ravel().tolist(), label="predicted objective", format="%.3g")
        made.suptitle(f"{law} law, the other groups in the ratio of the optimum", fontsize=10)
        made.legend(
            *axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8
        )
        out.plot(f"slices_{law}", made)


def _marks(axis, optima: Float[np.ndarray, "samples 2"]) -> None:
    if len(optima) > 1:
        style = {"c": COLORS[6], "mec": "black", "mew": 0.3, "ms": 3.5}
        axis.plot(*optima[1:].T, "o", **style, label="optima of refits", clip_on=False)
    # Not clipped: an optimum on an edge is drawn whole.
    axis.plot(*optima[0], "*", c=COLORS[1], mec="white", ms=11, label="optimum", clip_on=False)


def _slice(objective: Objective, optimum, a: int, b: int) -> tuple[np.ndarray, np.ndarray]:
    """Shares of groups a and b over their triangle, and the objective there."""
    rest = np.where(np.isin(np.arange(len(optimum)), [a, b]), 0, optimum + 1e-9)
    grid = _grid(1.0)
    mixtures = grid[:, 2:] * rest[None, :] / rest.sum()
    mixtures[:, [a, b]] = grid[:, :2]
    return grid[:, :2], objective(mixtures)


def _grid(total: float) -> Float[np.ndarray, "points 3"]:
    first, second = np.meshgrid(*[np.linspace(0, total, _FINE)] * 2, indexing="ij")
    inside = first + second <= total + 1e-9
    first, second = first[inside], second[inside]
    return np.stack([first, second, np.maximum(total - first - second, 0)], 1)


def _levels(values: np.ndarray, observed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Contour levels from the lowest prediction to the highest loss seen: far corners explode."""
    low, high = values.min(), max(observed.max(), values.min() + 1e-6)
    return np.minimum(values, high + (high - low)), np.linspace(min(low, observed.min()), high, 16)


def _influential(objective: Objective, most: Float[np.ndarray, "m"]) -> list[int]:
    """Groups that move the objective most between none of them and `most`, the others equal."""
    moved = []
    for j, end in enumerate(most):
        share = np.linspace(0, end, 21)
        path = np.tile((1 - share)[:, None] / (len(most) - 1), len(most))
        path[:, j] = share
        moved.append(np.ptp(objective(path)))
    return sorted(np.argsort(moved)[::-1][:_SLICED].tolist())


def _middle(parts: dict[str, tuple[np.ndarray, np.ndarray]], column: int) -> tuple[float, float]:
    observed = np.concatenate([pair[1][:, column] for pair in parts.values()])
    return (observed.mean(), observed.mean())
