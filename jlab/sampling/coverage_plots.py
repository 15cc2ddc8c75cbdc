"""Plots of coverage: curves with interval and law, selectors below the oracle, a family overlaid.

`out` is the `Run` that keeps the plots.
"""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Int

from jlab.sampling.study import CoverageStudy
from jlab.training.plots import COLORS, figure

Curve = tuple[Int[np.ndarray, "k"], Float[np.ndarray, "k"], Float[np.ndarray, "k"] | None]


def coverage_plot(
    out,
    studies: Mapping[str, CoverageStudy],
    *,
    forecasts: Mapping[str, Curve] | None = None,
    selection: Mapping[str, Curve] | None = None,
    name: str = "coverage",
) -> None:
    """`coverage.png`: each curve with its 95 % interval and law; selectors in a second panel.

    Args:
        out: keeps the plot.
        studies: by label.
        forecasts: further curves of the first panel: budgets, values, and their spread or None.
        selection: curves of the second panel, the first of which is the oracle's.
        name: of the file.
    """
    panels = 2 if selection else 1
    with figure(panels, size=(5.6, 3.8)) as (made, axes):
        axis = axes[0, 0]
        for (label, study), color in zip(studies.items(), _colors(len(studies)), strict=True):
            draw_curve(axis, label, study, color)
        for place, (label, (k, values, _)) in enumerate((forecasts or {}).items()):
            style = {"c": COLORS[(len(studies) + place) % len(COLORS)], "ls": ":"}
            axis.plot(k, values, lw=1.8, label=label, **style)
        _log_axis(axis, "samples per problem k", "coverage")
        if selection:
            _selection(axes[0, 1], selection)
        out.plot(name, made)


def draw_curve(axis, label: str, study: CoverageStudy, color: str) -> None:
    """One curve with the interval of coverage, and its law dashed."""
    axis.plot(study.k, study.coverage, c=color, lw=1.8, label=label)
    if not np.isnan(study.low).any():
        axis.fill_between(study.k, study.low, study.high, color=color, alpha=0.18, lw=0)
    if study.law is not None:
        a, b = study.law.law
        text = f"exp({a:.2f} k^{b:.2f})"
        axis.plot(study.k, study.law.law.predict(study.k), c=color, ls="--", lw=1.1, label=text)


def overlay_plot(out, studies: Mapping[str, CoverageStudy], shifts: Int[np.ndarray, "models"]):
    """`family.png`: the curves as they are, and moved left so that they meet.

    Source: arXiv 2407.21787, Section 3.2 and Figure 6.
    """
    with figure(2, size=(5.0, 3.6), sharey=True) as (made, axes):
        colors = _colors(len(studies))
        for (label, study), color, k in zip(studies.items(), colors, shifts, strict=True):
            axes[0, 0].plot(study.k, study.coverage, c=color, lw=1.8, label=label)
            axes[0, 1].plot(study.k / k, study.coverage, c=color, lw=1.8, label=f"{label}, k / {k}")
        _log_axis(axes[0, 0], "samples per problem k", "coverage")
        _log_axis(axes[0, 1], "k / k at the best pass@1", "")
        out.plot("family", made)


def cost_plot(out, curves: Mapping[str, Curve], unit: str) -> None:
    """`cost.png`: coverage over what it costs per problem."""
    with figure(size=(5.6, 3.8)) as (made, axes):
        for label, (cost, coverage, _) in curves.items():
            axes[0, 0].plot(cost, coverage, lw=1.8, label=label)
        _log_axis(axes[0, 0], f"{unit} per problem", "coverage")
        out.plot("cost", made)


def _selection(axis, curves: Mapping[str, Curve]) -> None:
    for (label, (k, values, spread)), color in zip(curves.items(), COLORS, strict=False):
        axis.plot(k, values, c=color, lw=1.8, label=label)
        if spread is not None:
            axis.fill_between(k, values - spread, values + spread, color=color, alpha=0.18, lw=0)
    _log_axis(axis, "samples per problem k", "share of problems solved")


def _log_axis(axis, x: str, y: str) -> None:
    axis.set(xscale="log", xlabel=x, ylabel=y, ylim=(-0.02, 1.02))
    axis.legend(fontsize=7.5)


def _colors(count: int) -> list[str]:
    return [COLORS[i % len(COLORS)] for i in range(count)]
