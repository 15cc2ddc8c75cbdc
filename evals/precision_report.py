"""What `python -m evals precision_law` writes: all numbers as JSON values, and the plots."""

from collections.abc import Callable

import numpy as np

from evals.law_report import plain
from evals.precision_fits import Fits, Inputs, gammas
from jlab.precision import (
    FORMS,
    Fitted,
    ScalingLaw,
    compute_optimal,
    critical_tokens,
    fraction,
    optimal_precision,
    optimal_precision_fixed_params,
    plan,
)
from jlab.precision.law_plots import (
    bits_plot,
    count_text,
    degradation_plot,
    isoloss_plot,
    optimum_plot,
)
from jlab.precision.optimum import COST

PAPER_BITS = (3, 4, 5, 6, 8, 12)
PAPER_SIZES = (30e6, 60e6, 110e6, 220e6)
PAPER_TOKENS = 26e9
LARGER = (1, 100, 10_000)  # budgets to plan for, in that of the largest run


def summary_of(config, inputs: Inputs, fits: Fits) -> dict:
    """All numbers: the table, the forms, and what each law answers; None where there is none."""
    return plain(
        {
            "table": _table(inputs, config),
            "forms": {name: _form(its, fits.scores[name]) for name, its in fits.fitted.items()},
            "refused": fits.refused,
            "samples": config.samples,
            "held_out": config.held_out,
            "asked": next(iter(fits.fitted), None) if "fit" in fits.laws else None,
            "laws": {name: _answers(config, inputs, fits, name) for name in fits.laws},
        }
    )


def draw(out, config, inputs: Inputs, fits: Fits) -> None:
    """All plots, into `plots/` of the run folder `out`."""
    for name, law in fits.laws.items():
        parts = gammas(law)[1]
        if not parts:
            continue
        N, D = _largest(inputs)
        isoloss_plot(_Named(out, name), law, N, D, parts)
        budgets = np.geomspace(*_span(_budgets(config, inputs)), 40)
        optimum_plot(_Named(out, name), budgets, _curves(config, inputs, fits, name, budgets))
    if "fit" not in fits.laws or inputs.table is None:
        return
    law = fits.laws["fit"]
    main = next(iter(fits.fitted.values()))
    if main.runs.parts:
        bits_plot(out, law, inputs.table, main.runs.parts)
    if main.runs.method:
        degradation_plot(out, law, inputs.table, main.runs.method)


class _Named:
    """Plots of the paper's law get other names than those of the fit."""

    def __init__(self, out, name: str):
        self.out, self.ending = out, "" if name == "fit" else f"_{name}"

    def plot(self, name: str, made) -> None:
        self.out.plot(name + self.ending, made)


def _table(inputs: Inputs, config) -> dict | None:
    if inputs.table is None:
        return None
    table = inputs.table
    return {
        "name": config.data,
        "runs": int((table.method == "").sum()),
        "finished": int(table.trained.sum()),
        "quantised": int(((table.method != "") & np.isfinite(table.loss)).sum()),
        "missing": table.missing,
        "empty_cells": table.empty_cells,
        "N": np.unique(table.N),
        "D": np.unique(table.D),
    }


def _form(fitted: Fitted, score) -> dict:
    problem, runs = fitted.problem, fitted.runs
    return {
        "parameters": len(problem.loss.names),
        "rise_parameters": len(problem.rise.names) if problem.rise else 0,
        "runs": len(runs.loss),
        "quantised": len(runs.rise),
        "left_out": {
            "no fewer bits than in training": int((~runs.to_fewer).sum()),
            "no rise": int((runs.to_fewer & (runs.rise <= 0)).sum()),
        },
        "r2": fitted.r2,
        "rise_r2": fitted.rise_r2,
        "held_out": None if score is None else score._asdict(),
        "objective": fitted.objective,
        "params": dict(fitted.law.params),
        "loose": fitted.loose,
    }


def _answers(config, inputs: Inputs, fits: Fits, name: str) -> dict:
    """What one law says: its parameters, and what follows from them, with intervals."""
    law = fits.laws[name]

    def told(of: Callable[[ScalingLaw], np.ndarray]) -> dict:
        ends = fits.interval(name, of) or (None, None)
        return {"value": of(law), "low": ends[0], "high": ends[1]}

    names = FORMS[law.form].names()
    found = {
        "form": law.form,
        "params": {key: told(lambda law, key=key: law.complete[key]) for key in names},
        "f": _fractions(inputs, law, told),
        "critical_tokens": _critical(config, inputs, law, told),
        "budgets": _budgets(config, inputs),
    }
    _, parts = gammas(law)
    found["parts"] = parts
    if parts:
        found["optimal_precision"] = told(_joint)
        found["plans"] = _plans(config, found["budgets"], law)
        N = config.params or _largest(inputs)[0]
        found["params_given"] = N
        found["fixed"] = told(lambda law: _fixed(law, np.array(found["budgets"]), N))
        found["optimal"] = _optimal(law, found["budgets"])
    return found


def _fractions(inputs: Inputs, law: ScalingLaw, told) -> dict[str, list[dict]]:
    """f of every part at the bits that the table has."""
    found = {}
    for part in gammas(law)[1]:
        seen = PAPER_BITS if inputs.table is None else getattr(inputs.table, f"P{part}")
        bits = np.unique(np.asarray(seen)[np.isfinite(seen)])

        def f(law, part=part, bits=bits):
            params, _ = gammas(law)
            return fraction(bits, params[f"gamma_{part}"], params[f"n_{part}"])

        found[part] = {"bits": bits, **told(f)}
    return found


def _critical(config, inputs: Inputs, law: ScalingLaw, told) -> dict | None:
    if FORMS[law.form].degradation is None:
        return None
    sizes = np.array(PAPER_SIZES if inputs.table is None else np.unique(inputs.table.N))
    bits = np.array(config.post_bits)

    def tokens(law):
        # More tokens never hurt where the rise falls with them.
        with np.errstate(invalid="ignore"):
            found = critical_tokens(sizes[:, None], bits[None, :], params=law.complete)
        return np.where(law.complete["gamma_D"] > 0, found, np.inf)

    return {"N": sizes, "bits": bits, **told(tokens)}


def _plans(config, budgets: list[float], law: ScalingLaw) -> list[dict]:
    """The best run of each budget, for each way of serving it."""
    quantises = FORMS[law.form].degradation is not None
    post = (np.inf, *sorted(config.post_bits, reverse=True)) if quantises else (np.inf,)
    serving = np.inf if config.serving is None else config.serving
    found = []
    for C in budgets:
        # More bits after training than in it are no quantisation: such a way is the first again.
        ways = {
            way.Ppost: way
            for way in reversed(plan(law, C, N=config.params, post=post, serving=serving))
        }
        found += [{"C": C, **way._asdict()} for way in reversed(ways.values())]
    return found


def _joint(law: ScalingLaw) -> np.ndarray:
    params, parts = gammas(law)
    return optimal_precision(params=params, parts=parts)


def _fixed(law: ScalingLaw, C: np.ndarray, N: float) -> np.ndarray:
    params, parts = gammas(law)
    return optimal_precision_fixed_params(C, N, params=params, parts=parts)


def _optimal(law: ScalingLaw, budgets: list[float]) -> list[dict]:
    params, parts = gammas(law)
    N, D, P = compute_optimal(np.array(budgets), params=params, parts=parts)
    columns = (budgets, N, D, np.broadcast_to(P, N.shape))
    return [dict(zip(("C", "N", "D", "P"), row, strict=True)) for row in zip(*columns, strict=True)]


def _curves(config, inputs: Inputs, fits: Fits, name: str, C: np.ndarray) -> dict[str, tuple]:
    law, N = fits.laws[name], config.params or _largest(inputs)[0]
    asked = {
        "N, D and P free": lambda law: np.broadcast_to(_joint(law), C.shape),
        f"N = {count_text(N)} given": lambda law: _fixed(law, C, N),
    }
    return {label: (of(law), *(fits.interval(name, of) or ())) for label, of in asked.items()}


def _budgets(config, inputs: Inputs) -> list[float]:
    if config.compute:
        return list(config.compute)
    N, D = _largest(inputs)
    return [COST * N * D * 16 * times for times in LARGER]


def _span(budgets: list[float]) -> tuple[float, float]:
    return min(budgets) / 100, max(budgets) * 100


def _largest(inputs: Inputs) -> tuple[float, float]:
    if inputs.table is None:
        return PAPER_SIZES[-1], PAPER_TOKENS
    return float(inputs.table.N.max()), float(inputs.table.D.max())
