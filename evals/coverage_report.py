"""From counts per problem to a folder with coverage curve, law, forecast and selectors.

`write_report` is what every evaluation by repeated sampling ends with; its parts serve
`python -m evals coverage`, which puts several of them side by side.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from evals.coverage_page import page

if TYPE_CHECKING:
    from jlab.sampling import BetaLaw
    from jlab.sampling.study import CoverageStudy
    from jlab.training.run import Run

SUBSETS = 100  # random subsets behind a selector's curve, as in the paper
REFITS = 50  # of the forecast, for its 90 % interval
BEYOND = (10, 100)  # times the samples drawn, that are forecast
MOST = 1_000_000_000  # samples of a problem; numpy draws a part of no more
FEWEST = 16  # samples per problem from which a forecast is tried


class Answers(NamedTuple):
    """What the samples of each problem answered, in the order in which they were drawn."""

    given: Sequence[Sequence[Any]]  # equal answers are one class: text, or numbers of classes
    correct: Sequence[Sequence[bool]]  # of each sample
    scores: Sequence[Sequence[float]] | None = None  # of a reward model, for best-of-N


def write_report(
    out: Path,
    names: Sequence[str],
    n: Int[np.ndarray, "p"],
    correct: Int[np.ndarray, "p"],
    *,
    title: str,
    answers: Answers | None = None,
    seed: int = 0,
) -> str:
    """Write `plots/coverage.png`, `summary.json` and `summary.md`; returns the text of the last.

    Args:
        out: folder, made if missing.
        names: of the problems.
        n: samples of each.
        correct: correct ones among them.
        title: what was sampled from, on which task, and which grader decided.
        answers: for majority vote, best-of-N and the statistics of duplicates.
        seed: of the resampling behind intervals.

    Raises:
        ValueError: arrays of unequal length, none at all, or counts that are none.
    """
    from jlab.training.run import Run

    n, correct = check_counts(names, n, correct)
    study = study_counts(n, correct, seed)
    summary = analyse(names, n, correct, study, answers, seed)
    run = Run(Path(out), title)
    _draw(run, summary, study)
    text = page(title, summary)
    run.write_summary(summary, text)
    return text


def check_counts(
    names: Sequence[str], n: Int[np.ndarray, "p"], correct: Int[np.ndarray, "p"]
) -> tuple[Int[np.ndarray, "p"], Int[np.ndarray, "p"]]:
    """The counts as integers.

    Raises:
        ValueError: with the problem, its counts and what is allowed.
    """
    n, correct = (np.asarray(x, np.float64) for x in (n, correct))
    if not len(names) == len(n) == len(correct):
        raise ValueError(
            "names, n and correct must be equally long; got"
            f" {len(names)}, {len(n)} and {len(correct)}"
        )
    if len(names) == 0:
        raise ValueError("there must be at least one problem; got none")
    for name, tries, right in zip(names, n, correct, strict=True):
        if not (tries == np.floor(tries) and right == np.floor(right) and 0 <= right <= tries):
            raise ValueError(
                f"problem {name}: correct must be a whole number in [0, n]; got"
                f" {right:.15g} of {tries:.15g}"
            )
        if tries < 1:
            raise ValueError(f"problem {name}: n must be at least 1; got {tries:.15g}")
        if tries >= MOST:
            raise ValueError(f"problem {name}: n must be below {MOST:,}; got {tries:.15g}")
    return n.astype(np.int64), correct.astype(np.int64)


def study_counts(
    n: Int[np.ndarray, "p"], correct: Int[np.ndarray, "p"], seed: int = 0
) -> "CoverageStudy":
    """`jlab.sampling.study` of counts, up to the smallest n."""
    from jlab.sampling import problem_curves
    from jlab.sampling.study import study_coverage

    return study_coverage(partial(problem_curves, n, correct), int(n.min()), seed=seed)


def analyse(
    names: Sequence[str],
    n: Int[np.ndarray, "p"],
    correct: Int[np.ndarray, "p"],
    study: "CoverageStudy",
    answers: Answers | None = None,
    seed: int = 0,
) -> dict:
    """All numbers of a report, as JSON values."""
    from jlab.sampling.study import verdict

    rows = zip(map(str, names), n.tolist(), correct.tolist(), strict=True)
    return {
        "problems": [dict(zip(("problem", "n", "correct"), row, strict=True)) for row in rows],
        "samples": {"least": int(n.min()), "most": int(n.max()), "all": int(n.sum())},
        "solved": int((correct > 0).sum()),
        **study_numbers(study),
        "verdict": verdict(study),
        "few": _forecast_from_few(n, correct, study.k, seed),
        "beyond": _forecast_beyond(n, correct, seed),
        "selection": None if answers is None else _selection(answers, seed),
    }


def study_numbers(study: "CoverageStudy") -> dict:
    """A curve and its law as JSON values; None for the ends of an interval that is not known."""
    law = study.law
    curve = {"k": study.k.tolist(), "coverage": study.coverage.tolist()}
    curve |= {name: [_known(x) for x in getattr(study, name)] for name in ("low", "high")}
    if law is None:
        return {"curve": curve, "law": None}
    return {
        "curve": curve,
        "law": {
            "a": {"value": law.law.a, "low": _known(law.low.a), "high": _known(law.high.a)},
            "b": {"value": law.law.b, "low": _known(law.low.b), "high": _known(law.high.b)},
            "predicted": law.law.predict(study.k).tolist(),
            "error": law.error._asdict(),
            "outside_interval": _known(law.outside),
            "straight_line_r2": law.straight,
            "equal_difficulty": {"p": law.equal, "error": law.equal_error._asdict()},
        },
    }


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _forecast_from_few(
    n: Int[np.ndarray, "p"], correct: Int[np.ndarray, "p"], ks: Int[np.ndarray, "k"], seed: int
) -> dict | None:
    """What the square root of the samples, drawn at random, would have said of all of them."""
    least = int(n.min())
    few = round(least**0.5)
    if least < FEWEST:
        return None
    drawn = np.random.default_rng(seed).hypergeometric(correct, n - correct, few)
    law = _beta(np.full(len(n), few), drawn)
    return None if law is None else {"samples": few, "predicted": law.predict(ks).tolist()}


def _forecast_beyond(
    n: Int[np.ndarray, "p"], correct: Int[np.ndarray, "p"], seed: int
) -> dict | None:
    """Coverage at many times the samples drawn, with a 90 % interval over problems."""
    from jlab.stats import percentile_interval, resample

    law = _beta(n, correct) if n.min() >= FEWEST and len(n) > 1 else None
    if law is None:
        return None
    ks = int(n.min()) * np.array(BEYOND)
    refits = [_beta(n[row], correct[row]) for row in resample(len(n), samples=REFITS, seed=seed)]
    curves = np.stack([refit.predict(ks) for refit in refits if refit is not None])
    low, high = percentile_interval(curves, level=0.9)
    columns = zip(ks.tolist(), law.predict(ks).tolist(), low.tolist(), high.tolist(), strict=True)
    return {
        "at_most": float(law.predict(n.min())),
        "alpha": law.alpha,
        "beta": law.beta,
        "forecast": [dict(zip(("k", "value", "low", "high"), x, strict=True)) for x in columns],
    }


def _beta(n: Int[np.ndarray, "p"], correct: Int[np.ndarray, "p"]) -> "BetaLaw | None":
    from jlab.sampling import fit_beta

    if correct.sum() in {0, n.sum()}:  # all wrong or all right: no distribution is likelier
        return None
    return fit_beta(n, correct)


def _selection(answers: Answers, seed: int) -> dict:
    """Curves of the selectors and of the number of different answers, over subsets."""
    import jax

    from jlab.sampling import k_grid, majority_curve, majority_limit, weighted_curve
    from jlab.sampling.select_curves import best_of_n_mean

    least = min(len(row) for row in answers.given)
    classes, right = _matrices(answers, least)
    ks, key = k_grid(least, points=20), jax.random.key(seed)
    majority = majority_curve(key, classes, right, ks, subsets=SUBSETS)
    found = {
        "samples": least,
        "k": ks.tolist(),
        "coverage": _oracle(right, ks).tolist(),
        "majority": {"mean": majority.mean.tolist(), "std": majority.std.tolist()},
        "majority_limit": majority_limit(classes, right),
        "distinct": _distinct(classes, ks).tolist(),
        "commonest": float(np.mean([np.bincount(row).max() / least for row in classes])),
    }
    if answers.scores is not None:
        scores = np.array([row[:least] for row in answers.scores], np.float64)
        weighted = weighted_curve(key, classes, scores, right, ks, subsets=SUBSETS)
        found["best_of_n"] = best_of_n_mean(scores, right, ks).tolist()
        found["weighted"] = {"mean": weighted.mean.tolist(), "std": weighted.std.tolist()}
    return found


def _matrices(answers: Answers, least: int) -> tuple[np.ndarray, np.ndarray]:
    """Classes of answers and grades, the first `least` samples of every problem.

    Raises:
        ValueError: a problem whose answers, grades and scores are not equally many.
    """
    columns = [column for column in answers if column is not None]
    for place, rows in enumerate(zip(*columns, strict=True)):
        if len({len(row) for row in rows}) != 1:
            raise ValueError(
                f"answers: problem {place} must have as many grades and scores as answers; got"
                f" {', '.join(str(len(row)) for row in rows)}"
            )
    from jlab.sampling import answer_classes

    classes = np.stack([answer_classes(row[:least]) for row in answers.given])
    return classes, np.array([row[:least] for row in answers.correct], bool)


def _oracle(right: np.ndarray, ks: np.ndarray) -> Float[np.ndarray, "k"]:
    from jlab.sampling import coverage_curve

    return coverage_curve(right.shape[1], right.sum(1), ks)


def _distinct(classes: np.ndarray, ks: np.ndarray) -> Float[np.ndarray, "k"]:
    """Expected number of different answers among k samples, mean over problems.

    A class of m of the n samples is among k of them with the chance pass@k of m in n.
    """
    from jlab.sampling import pass_at_k

    n = classes.shape[1]
    sizes = [np.bincount(row) for row in classes]
    return np.mean([pass_at_k(n, m[:, None], ks[None, :]).sum(0) for m in sizes], axis=0)


def _draw(run: "Run", summary: dict, study: "CoverageStudy") -> None:
    from jlab.sampling.coverage_plots import coverage_plot

    few, chosen = summary["few"], summary["selection"]
    forecasts = {}
    if few is not None:
        label = f"forecast from {few['samples']} samples"
        forecasts[label] = (study.k, np.array(few["predicted"]), None)
    selection = {}
    if chosen is not None:
        k = np.array(chosen["k"])
        selection["coverage (oracle)"] = (k, np.array(chosen["coverage"]), None)
        for name, label in (("majority", "majority vote"), ("weighted", "weighted vote")):
            if name in chosen:
                curve = chosen[name]
                selection[label] = (k, np.array(curve["mean"]), np.array(curve["std"]))
        if "best_of_n" in chosen:
            selection["best of k by score"] = (k, np.array(chosen["best_of_n"]), None)
    label = "coverage" if np.isnan(study.low).any() else "coverage, 95 % interval"
    studies = {label: study}
    coverage_plot(run, studies, forecasts=forecasts, selection=selection)
