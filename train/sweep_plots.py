"""Plots of the sweep: losses, law fidelity, matrices, their agreement, and where they lead."""

from collections.abc import Sequence

import numpy as np

from jlab.training.plots import COLORS, figure
from jlab.training.run import Run
from train.sweep_laws import LAWS
from train.sweep_matrices import EQUAL, FITTED, METHODS, TITLES, proportions
from train.sweep_report import agreement, over

MARKS = {"log-linear": "o", "linear": "x"}


def sweep_plots(out: Run, seeds: Sequence[dict], rate: float) -> None:
    """All plots of what there is: a seed that was stopped may lack checkpoints and full runs.

    Args:
      out: keeps the plots.
      seeds: the result of each.
      rate: step size of the solver.
    """
    _losses(out, seeds[0])
    if seeds[0]["breaks"]:
        _fidelity(out, seeds)
        _matrices(out, seeds[0])
        _gains(out, seeds[0])
        _similarity(out, seeds)
        _proportions(out, seeds, rate)


def _losses(out: Run, seed: dict) -> None:
    """`loss_by_group.png`: the path's validation losses and where its branches end, first seed."""
    names = seed["groups"]
    curve = seed["path"]["curve"]
    with figure(len(names), size=(3.0, 2.8)) as (made, axes):
        for i, (axis, name) in enumerate(zip(axes[0], names, strict=True)):
            axis.plot([step for step, _ in curve], [losses[i] for _, losses in curve], label="path")
            for there in seed["breaks"]:
                end = there["step"] + seed["branch_steps"]
                for after in there["after"]:
                    line = [there["before"][i], after[i]]
                    axis.plot([there["step"], end], line, c=COLORS[1], lw=0.6, alpha=0.7)
            axis.plot([], [], c=COLORS[1], lw=0.8, label="branches")
            if "static" in seed:
                final = np.array(seed["static"]["after"])[:, i]
                axis.plot(np.full(len(final), curve[-1][0]), final, "_", c=COLORS[2], ms=8)
                axis.plot([], [], "_", c=COLORS[2], ms=8, label="full runs on the cover")
            axis.set(title=name, xlabel="step")
        axes[0, 0].set_ylabel("validation loss (nats)")
        made.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
        out.plot("loss_by_group", made)


def _fidelity(out: Run, seeds: Sequence[dict]) -> None:
    """`fidelity.png`: predicted against observed, per group, all seeds; static above dynamic."""
    names, whole = seeds[0]["groups"], [seed for seed in seeds if "static" in seed]
    steps = [there["step"] for there in seeds[0]["breaks"]]
    with figure(len(names), 2, size=(3.0, 2.9)) as (made, axes):
        for i, name in enumerate(names):
            _static_panel(axes[0, i], whole, i)
            axes[0, i].set_title(name)
            for place, step in enumerate(steps):
                pairs = [_changes(seed["breaks"][place], i) for seed in seeds]
                predicted, observed = np.concatenate(pairs, axis=1)
                style = {"c": COLORS[place % len(COLORS)], "ms": 7, "mew": 0, "alpha": 0.7}
                axes[1, i].plot(predicted, observed, ".", label=f"from step {step}", **style)
            axes[1, i].set_xlabel("predicted (nats)")
            for axis in axes[:, i]:
                if axis.has_data():
                    middle = np.mean(axis.get_xlim())
                    axis.axline((middle, middle), slope=1, c="black", lw=0.8, ls="--", zorder=0)
        axes[0, 0].set_ylabel("static: observed\nfinal loss (nats)")
        axes[1, 0].set_ylabel("dynamic, linear: observed\nloss change (nats)")
        for row in axes:
            if row[0].get_legend_handles_labels()[0]:
                row[0].legend(fontsize=7, handletextpad=0.2, borderaxespad=0.1)
        out.plot("fidelity", made)


def _static_panel(axis, seeds: Sequence[dict], group: int) -> None:
    for law, color in zip(LAWS, COLORS, strict=False):
        for place, seed in enumerate(seeds):
            predicted = np.array(seed["static"]["laws"][law]["predicted"])[:, group]
            observed = np.array(seed["static"]["after"])[:, group]
            label = law if place == 0 else None
            axis.plot(predicted, observed, MARKS[law], c=color, ms=3.5, alpha=0.7, label=label)


def _changes(there: dict, group: int) -> tuple[np.ndarray, np.ndarray]:
    """Predicted by the linear law, and observed."""
    before = there["before"][group]
    predicted = np.array(there["laws"]["linear"]["predicted"])[:, group] - before
    return predicted, np.array(there["after"])[:, group] - before


def _matrices(out: Run, seed: dict) -> None:
    """`matrices.png`: A over time (downwards), fitted and by each method; first seed."""
    names, shown, breaks = seed["groups"], (FITTED, *METHODS), seed["breaks"]
    with figure(len(shown), len(breaks), size=(2.0, 1.9), sharex=True, sharey=True) as (made, axes):
        for row, there in zip(axes, breaks, strict=True):
            scaled = [_scaled(there, name) for name in shown]
            limit = max(np.abs(matrix).max() for matrix in scaled) or 1.0
            for axis, matrix in zip(row, scaled, strict=True):
                image = axis.imshow(matrix, cmap="RdBu", vmin=-limit, vmax=limit)
                axis.grid(visible=False)
            row[0].set_yticks(range(len(names)), names)
            row[0].set_ylabel(f"step {there['step']}\nevaluated")
            made.colorbar(image, ax=row.tolist(), label="nats per branch", shrink=0.9, aspect=12)
        for top, bottom, name in zip(axes[0], axes[-1], shown, strict=True):
            top.set_title(TITLES[name])
            bottom.set_xticks(range(len(names)), names, rotation=45, ha="right")
            bottom.set_xlabel("trained on")
        out.plot("matrices", made)


def _scaled(there: dict, name: str) -> np.ndarray:
    """A method's matrix in the unit of the fitted one."""
    matrix = np.array(there["matrices"][name])
    return matrix if name == FITTED else there["match"][name]["scale"] * matrix


def _gains(out: Run, seed: dict) -> None:
    """`benefits.png`: column sums, all that the solver sees of a matrix; first seed."""
    names, places = seed["groups"], np.arange(len(seed["groups"]))
    with figure(len(seed["breaks"]), size=(3.8, 3.0)) as (made, axes):
        for axis, there in zip(axes[0], seed["breaks"], strict=True):
            fitted = np.sum(there["matrices"][FITTED], 0)
            low, high = there["gains"]
            axis.bar(places, fitted, width=0.8, color="0.85", label=TITLES[FITTED])
            axis.vlines(places - 0.32, low, high, color="0.4", lw=2, label="its 95 % interval")
            for k, (name, color) in enumerate(zip(METHODS, COLORS, strict=False)):
                at = places + (k + 1) * 0.11 - 0.27
                axis.plot(at, _scaled(there, name).sum(0), "o", ms=4.5, c=color, label=TITLES[name])
            axis.axhline(0, c="black", lw=0.8)
            axis.set_xticks(places, names)
            axis.set(title=f"step {there['step']}", xlabel="trained on")
            axis.grid(visible=False, axis="x")
        axes[0, 0].set_ylabel("benefit to all groups\n(nats per branch)")
        made.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=7)
        out.plot("benefits", made)


def _similarity(out: Run, seeds: Sequence[dict]) -> None:
    """`similarity.png`: agreement with the fitted matrix over the run; dots: seeds."""
    steps = np.array([there["step"] for there in seeds[0]["breaks"]])
    apart = 0.012 * steps[-1]
    with figure(size=(6.2, 3.8)) as (made, axes):
        axis = axes[0, 0]
        refits = over(seeds, lambda there: there["refit_similarity"]).mean(0)
        axis.plot(steps, refits, c="black", ls=":", label="A* against its refits")
        equal = agreement(seeds, EQUAL, "similarity").mean(0)
        axis.plot(steps, equal, c="black", ls="--", lw=1, label=TITLES[EQUAL])
        for k, (name, color) in enumerate(zip(METHODS, COLORS, strict=False)):
            values, at = agreement(seeds, name, "similarity"), steps + (k - 2) * apart
            axis.plot(at, values.mean(0), "-", c=color, label=TITLES[name])
            axis.plot(np.tile(at, len(seeds)), values.ravel(), "o", c=color, ms=3.5, alpha=0.6)
        axis.set(xlabel="step of the checkpoint", ylabel="similarity with the fitted A*")
        axis.set_xticks(steps)
        axis.set_ylim(top=1.03)
        made.legend(*axis.get_legend_handles_labels(), loc="outside right upper", fontsize=8)
        out.plot("similarity", made)


def _proportions(out: Run, seeds: Sequence[dict], rate: float) -> None:
    """`proportions.png`: where the same solver goes with each matrix; bold: mean over seeds."""
    names, shown = seeds[0]["groups"], (FITTED, *METHODS)
    steps = [0, *(there["step"] for there in seeds[0]["breaks"])]
    with figure(len(shown), size=(2.5, 3.0), sharey=True) as (made, axes):
        for axis, source in zip(axes[0], shown, strict=True):
            matrices = over(seeds, lambda there, source=source: there["matrices"][source])
            paths = np.stack([proportions(of_seed, rate) for of_seed in matrices])
            for i, name in enumerate(names):
                color = COLORS[i % len(COLORS)]
                for path in paths if len(paths) > 1 else ():
                    axis.plot(steps, path[:, i], c=color, lw=0.6, alpha=0.6)
                axis.plot(steps, paths.mean(0)[:, i], c=color, lw=2, label=name)
            axis.set(title=TITLES[source], xlabel="step")
            axis.set_xticks(steps)
        axes[0, 0].set_ylabel("proportion")
        made.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside right upper", fontsize=8)
        out.plot("proportions", made)
