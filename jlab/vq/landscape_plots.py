"""The rotation trick in the plane: `voronoi.png` and `himmelblau.png`."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jlab.training.plots import COLORS, figure
from jlab.vq.landscape import MINIMA, Descent, himmelblau
from jlab.vq.lookup import nearest

_FINE = 300  # pixels a side behind which cells or levels are drawn
_LEVELS = (1, 5, 20, 60, 120, 200, 300, 450)


def voronoi_plot(
    out,
    codes: Float[np.ndarray, "k 2"],
    gradients: Float[np.ndarray, "k 2"],
    trails: Mapping[str, Float[np.ndarray, "t k n 2"]],
    title: str,
) -> None:
    """`voronoi.png`: where the points of each cell begin and end, a panel per estimator.

    Args:
      out: the `Run` that keeps the plot.
      codes: of the cells; the arrow at each is the applied update, -gradient.
      gradients: of the cells.
      trails: of the points of each cell, by the estimator's name.
      title: what is seen.
    """
    limit = 1.15 * max(np.abs(trail).max() for trail in trails.values())
    with figure(len(trails), size=(3.6, 4.5), sharey=True) as (made, axes):
        for axis, (name, trail) in zip(axes[0], trails.items(), strict=True):
            _cells(axis, codes, limit)
            for k in range(len(codes)):
                color = COLORS[k % len(COLORS)]
                axis.plot(*np.moveaxis(trail[:, k], -1, 0), color=color, lw=0.6, alpha=0.55)
                axis.plot(*trail[0, k].T, "o", mfc="white", mec=color, ms=3, mew=0.7)
                axis.plot(*trail[-1, k].T, "o", color=color, ms=3)
            axis.quiver(
                *codes.T, *-gradients.T, angles="xy", scale_units="xy", scale=1.2, width=0.011,
                zorder=3,
            )  # fmt: skip
            axis.plot(*codes.T, "k*", ms=9, mec="white", mew=0.6, zorder=4)
            axis.plot(0, 0, "k+", ms=7)
            axis.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal")
            axis.set_title(name, fontsize=7.5)
        made.suptitle(title, fontsize=9)
        out.plot("voronoi", made)


def _cells(axis, codes: Float[np.ndarray, "k 2"], limit: float) -> None:
    """The borders of the codes' cells."""
    x, y, places = _grid(limit)
    ids, _ = nearest(jnp.asarray(codes), jnp.asarray(places))
    shown = np.asarray(ids).reshape(x.shape)
    for k in range(len(codes)):
        axis.contour(x, y, shown == k, levels=[0.5], colors="0.75", linewidths=0.7)
    axis.grid(visible=False)


def himmelblau_plot(out, runs: Mapping[str, Descent], distances: Mapping[str, np.ndarray]) -> None:
    """`himmelblau.png`: paths of the codes over the contours, and three numbers by step.

    Args:
      out: the `Run` that keeps the plot.
      runs: by the estimator's name; every leaf has the seeds first. The first seed's paths are
        drawn, and the mean over seeds with its standard deviation.
      distances: from codes to the nearest minimum by seed and step, by the estimator's name.
    """
    with figure(6, 2, size=(1.6, 3.6)) as (made, axes):
        grid = axes[0, 0].get_gridspec()
        for axis in axes.flat:
            axis.remove()
        for place, (name, run) in enumerate(runs.items()):
            axis = made.add_subplot(grid[0, 3 * place : 3 * place + 3])
            _paths(axis, jax.tree.map(lambda x: np.asarray(x[0]), run), COLORS[place])
            axis.set_title(name, fontsize=9)
        numbers = {
            "|e - q|$^2$": {name: run.error for name, run in runs.items()},
            "loss at the codes": {name: run.loss for name, run in runs.items()},
            "distance of codes to a minimum": distances,
        }
        for place, (label, values) in enumerate(numbers.items()):
            axis = made.add_subplot(grid[1, 2 * place : 2 * place + 2])
            for color, (name, value) in zip(COLORS, values.items(), strict=False):
                _band(axis, np.asarray(value), color, name)
            axis.set(xlabel="step", title=label, yscale="log")
            axis.title.set_fontsize(9)
        axis.legend(fontsize=8, title="mean and deviation of starts", title_fontsize=7)
        codes = next(iter(runs.values())).codes.shape[-2]
        made.suptitle(f"{codes} codes under Himmelblau's function, the first start", fontsize=9)
        out.plot("himmelblau", made)


def _paths(axis, run: Descent, color: str) -> None:
    x, y, places = _grid(6.0)
    value = np.asarray(himmelblau(jnp.asarray(places))).reshape(x.shape)
    axis.contour(x, y, value, levels=_LEVELS, cmap="Greys_r", linewidths=0.6, alpha=0.6)
    axis.plot(*run.points[0].T, ".", color="0.75", ms=2, label="points, first")
    axis.plot(*run.points[-1].T, ".", color="#E69F00", ms=3, label="points, last")
    for k in np.unique(run.ids[0]):
        axis.plot(*run.codes[:, k].T, color=color, lw=1.0)
    used = run.codes[-1][np.unique(run.ids[-1])]
    axis.plot(*used.T, "*", color=color, ms=8, mec="white", mew=0.5, label="codes, last")
    axis.plot(*np.array(MINIMA).T, "kx", ms=8, mew=1.5, label="minima")
    axis.legend(fontsize=6, loc="lower left", ncols=2)
    axis.set(xlim=(-6, 6), ylim=(-6, 6), aspect="equal")
    axis.grid(visible=False)


def _band(axis, values: Float[np.ndarray, "seeds t"], color: str, label: str) -> None:
    """Mean over seeds, and its standard deviation on both sides, on a scale of logarithms."""
    logs = np.log(np.maximum(values, 1e-12))
    middle, width = logs.mean(0), logs.std(0)
    axis.plot(np.exp(middle), color=color, lw=1.4, label=label)
    axis.fill_between(
        range(len(middle)), np.exp(middle - width), np.exp(middle + width), color=color, alpha=0.2
    )


def _grid(limit: float) -> tuple[np.ndarray, np.ndarray, Float[np.ndarray, "n 2"]]:
    """Places in a square round the origin: x and y as a grid, and one below the other."""
    line = np.linspace(-limit, limit, _FINE, dtype=np.float32)
    x, y = np.meshgrid(line, line)
    return x, y, np.stack([x.ravel(), y.ravel()], axis=1)
