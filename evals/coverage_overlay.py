"""Several coverage curves together: a family's curves shifted onto one another, equal costs."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from evals.coverage_inputs import Counted
from evals.coverage_report import study_counts, study_numbers
from jlab.cli import read_json
from jlab.training.report import markdown_table

if TYPE_CHECKING:
    from evals.coverage_run import ArithmeticRun
    from jlab.sampling import Cost
    from jlab.training.run import Run

LARGEST = 10_000  # samples per problem up to which exact curves go
BUDGETS = 9  # costs per problem in the table of equal costs
MOST = 1e100  # of a cost, far within what floats hold
FLOPS = "FLOPs"


def read_costs(texts: Sequence[str]) -> list[tuple[str, "Cost"]]:
    """(unit, cost of a problem's samples) from `--costs`.

    Raises:
        ValueError: a cost that cannot be read, is not positive, or of another kind than the first.
    """
    costs = [_cost(text) for text in texts]
    for text, (unit, cost) in zip(texts, costs, strict=True):
        if unit != costs[0][0]:
            raise ValueError(f"costs must all be prices or all FLOPs; got {texts[0]} and {text}")
        if not (cost.per_sample > 1 / MOST and cost.of(1) < MOST):
            raise ValueError(f"costs must be positive and below {MOST:.0e}; got {text}")
    return costs


def _cost(text: str) -> tuple[str, "Cost"]:
    from jlab.hub import read_config
    from jlab.sampling import Cost, ModelSize, inference_cost, model_size

    parts = text.split(",")
    try:
        if len(parts) == 1:
            return "price", Cost(0.0, float(text))
        if len(parts) == 5:
            *size, prompt, decode = map(_whole, parts)
            return FLOPS, inference_cost(ModelSize(*size), prompt, decode)
        folder, prompt, decode = parts
        lengths = int(prompt), int(decode)
    except ValueError:
        raise ValueError(
            "costs must be a price, PARAMS,LAYERS,D_MODEL,PROMPT,DECODE or FOLDER,PROMPT,DECODE;"
            f" got {text!r}"
        ) from None
    return FLOPS, inference_cost(
        model_size(read_config(read_json(Path(folder) / "config.json"))), *lengths
    )


def _whole(text: str) -> int:
    """The number, which may be written 8e9."""
    if not float(text).is_integer():  # nor is what is not finite
        raise ValueError(f"must be a whole number; got {text}")
    return int(float(text))


def overlay(
    out: "Run", counted: Sequence[Counted], costs: list[tuple[str, "Cost"]], seed: int
) -> tuple[str, dict]:
    """Plots and tables of several subjects, or of one with its costs; with the numbers."""
    from jlab.sampling.coverage_plots import coverage_plot

    labels = _labels(counted)
    studies = {x: study_counts(c.n, c.correct, seed) for x, c in zip(labels, counted, strict=True)}
    text, summary = "", {}
    if len(counted) > 1:
        coverage_plot(out, studies)
        text, summary["family"] = _family(out, labels, counted, studies)
    if costs:
        costs_text, summary["costs"] = _equal_costs(out, labels, counted, studies, costs)
        text += costs_text
    return text, summary


def _family(out: "Run", labels, counted, studies) -> tuple[str, dict]:
    """Source: arXiv 2407.21787, Section 3.2: curves of a family nearly coincide once shifted."""
    from jlab.sampling import family_overlay
    from jlab.sampling.coverage_plots import overlay_plot

    shifted = family_overlay([c.n for c in counted], [c.correct for c in counted])
    overlay_plot(out, studies, shifted.k)
    rows = []
    for label, study, k in zip(labels, studies.values(), shifted.k, strict=True):
        law = study.law
        ab = ["-", "-"] if law is None else [f"{x:.3f}" for x in law.law]
        rows.append([label, f"{study.coverage[0]:.4f}", f"{study.coverage[-1]:.4f}", *ab, k])
    head = ["subject", "pass@1", "at most samples", "a", "b", "k at the best pass@1"]
    text = (
        f"# Together\n\n{markdown_table(head, rows)}\nThe best pass@1 is {shifted.target:.4f}; the"
        " last column is the budget at which each subject comes closest to it. Shifted\nby it, the"
        " curves of one family nearly coincide (`plots/family.png`).\n"
    )
    return text, {"target": shifted.target, "k": dict(zip(labels, shifted.k.tolist(), strict=True))}


def _equal_costs(out: "Run", labels, counted, studies, costs) -> tuple[str, dict]:
    from jlab.sampling import Contender, match_budgets
    from jlab.sampling.coverage_plots import cost_plot

    unit = costs[0][0]
    curves, models = {}, {}
    for label, one, (_, cost) in zip(labels, counted, costs, strict=True):
        spent = np.array([float(cost.of(int(k))) for k in studies[label].k])
        curves[label] = (spent, studies[label].coverage, None)
        models[label] = Contender(cost, one.n, one.correct)
    cost_plot(out, curves, unit)
    ends = [(spent[0], spent[-1]) for spent, _, _ in curves.values()]
    budgets = np.geomspace(min(low for low, _ in ends), max(high for _, high in ends), BUDGETS)
    matched = match_budgets(models, (budgets * (1 + 1e-9)).tolist())
    rows = []
    for place, budget in enumerate(budgets):
        cells = matched.coverage[:, place]
        best = matched.best[place]
        row = [f"{budget:.3g}", *("-" if np.isnan(c) else f"{c:.4f}" for c in cells)]
        rows.append([*row, "-" if best < 0 else labels[best]])
    head = [f"{unit} per problem", *labels, "best"]
    text = f"\n# At equal {unit}\n\n{markdown_table(head, rows)}"
    text += "A dash: the budget pays for no sample, or for more than were drawn.\n"
    return text, {"unit": unit, "budgets": budgets.tolist()}


def exact_section(out: "Run", run: "ArithmeticRun", name: str, seed: int) -> tuple[str, dict]:
    """Exact coverage of every state of a run, its law and verdict; `plots/NAME.png`."""
    from evals.coverage_run import exact
    from jlab.sampling.coverage_plots import coverage_plot
    from jlab.sampling.exact import exact_curves
    from jlab.sampling.study import round_budgets, study_coverage, verdict

    studies = {
        f"step {step}": study_coverage(partial(exact_curves, p), LARGEST, seed=seed)
        for step, p in exact(run).items()
    }
    coverage_plot(out, studies, name=name)
    ks = round_budgets(LARGEST)
    rows, lines = [], []
    for label, study in studies.items():
        ab = ["-", "-"] if study.law is None else [f"{x:.3f}" for x in study.law.law]
        rows.append([label, *(f"{study.at(k)[0]:.4f}" for k in ks), *ab])
        lines.append(f"- {label}: {verdict(study)}")
    table = markdown_table(["state", *(f"k = {k:,}" for k in ks), "a", "b"], rows)
    said = "\n".join(lines)
    text = (
        f"# Exact coverage of {len(run.problems)} problems\n\nNo samples: the probability of each"
        f" problem's one right answer.\n\n{table}\n{said}\n"
    )
    return text, {label: study_numbers(study) for label, study in studies.items()}


def _labels(counted: Sequence[Counted]) -> list[str]:
    """Labels, told apart by their place where two are the same."""
    names = [one.label for one in counted]
    return [x if names.count(x) == 1 else f"{x} ({i + 1})" for i, x in enumerate(names)]
