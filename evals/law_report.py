"""What `python -m evals mixing_laws` writes: all numbers, and the plots.

The objective is the weighted mean of the losses; in arrays it is the column after the targets.
"""

import math
from typing import Any

import numpy as np
from jaxtyping import Float

from evals.law_inputs import Inputs
from evals.law_page import SCORES
from jlab.data.table import Table
from jlab.mixing.law_quality import law_quality
from jlab.mixing.law_study import Study, with_objective
from jlab.training.law_plots import fit_plot, optimum_plot, rank_plot, slice_plot

SAME = 0.005  # shares that differ by less are the same mixture: tables have two or three digits


def summary_of(studies: dict[str, Study], inputs: Inputs) -> dict:
    """All numbers, as JSON values: what is not defined is None."""
    runs = inputs.runs
    parts = {"train": runs, **inputs.others}
    summary = {
        "runs": {part: len(table.losses) for part, table in parts.items()},
        "groups": runs.groups,
        "targets": runs.targets,
        "weights": inputs.weights,
        "laws": {
            name: {
                "scores": {part: _scores(study, table, part) for part, table in parts.items()},
                "mixtures": _mixtures(study, runs),
                "parameters": {k: v._asdict() for k, v in study.parameters().items()},
            }
            for name, study in studies.items()
        },
    }
    return plain(summary)


def draw(out, studies: dict[str, Study], inputs: Inputs) -> None:
    """All plots, into `plots/` of the run folder `out`."""
    runs, weights = inputs.runs, inputs.weights
    observed = runs.losses @ weights
    for name, study in studies.items():
        _draw_fit(out, name, study, inputs)
        optima = np.concatenate([study.optimum[None, :], study.optima])
        slice_plot(out, name, runs.groups, study.objective, (runs.proportions, observed), optima)
    shares = {name: study.shares() for name, study in studies.items()}
    optimum_plot(out, runs.groups, shares, runs.proportions[observed.argmin()])
    if "transfer" in inputs.others:
        other = inputs.others["transfer"]
        laws = {name: study.objective(other.proportions) for name, study in studies.items()}
        rank_plot(out, laws, other.losses @ weights)


def _draw_fit(out, name: str, study: Study, inputs: Inputs) -> None:
    tables = {"train": inputs.runs, **inputs.others}
    tables.pop("transfer", None)
    columns = [-1, *range(len(inputs.runs.targets))]  # the objective first: not all may be shown
    labels = ["objective", *inputs.runs.targets]
    scores = [_scores(study, table, part)["r2"][columns] for part, table in tables.items()]
    titles = [
        f"{label}\nR² {' / '.join(f'{x:.3f}' for x in values)}"
        for label, *values in zip(labels, *scores, strict=True)
    ]
    pairs = {
        part: (
            study.predict(table.proportions)[:, columns],
            with_objective(table.losses, study.weights)[:, columns],
        )
        for part, table in tables.items()
    }
    fit_plot(out, name, titles, pairs)


def _scores(study: Study, table: Table, part: str) -> dict[str, Float[np.ndarray, "k+1"]]:
    """Scores of every target, then of the objective; at another scale of the order alone."""
    losses = with_objective(table.losses, study.weights)
    quality = law_quality(study, table.proportions, losses)
    names = ["spearman"] if part == "transfer" else SCORES
    return {name: getattr(quality, name) for name in names}


def _mixtures(study: Study, runs: Table) -> dict[str, dict]:
    """What the law says of its optimum, of the uniform mixture and of the best run there is."""
    objective = runs.losses @ study.weights
    best = int(objective.argmin())
    mixtures = {
        "optimum": study.optimum,
        "uniform": np.full(len(runs.groups), 1 / len(runs.groups)),
        f"best run (row {best + 1})": runs.proportions[best],
    }
    found = {}
    for name, p in mixtures.items():
        apart = np.abs(runs.proportions - p[None, :])
        same = apart.max(1) < SAME  # seeds of one mixture are averaged
        found[name] = {
            "shares": p,
            "predicted": study.predicted(p)._asdict(),
            "observed": objective[same].mean() if same.any() else None,
            "distance": 0.5 * apart.sum(1).min(),
        }
    shares = study.shares()
    found["optimum"] |= {"low": shares.low, "high": shares.high}
    return found


def plain(value: Any) -> Any:
    """Arrays as lists, numbers as Python's, those that are not finite as None."""
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value
