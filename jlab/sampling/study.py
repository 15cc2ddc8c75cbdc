"""What a coverage curve says: its interval, its law, and whether the law holds.

A curve is given as `solved(ks) -> [problems, k]`, the chance that k samples solve each problem:
`problem_curves` of counts, or 1 - (1 - p)^k where p is known exactly.

Two curves are fitted beside the law exp(a k^b), since it has two parameters and bends to much: a
straight line in log k, which is what "log-linear growth" means, and the curve of problems that are
all equally hard, 1 - (1 - p)^k with one p. Where the last one is as close as the law, or where the
law begins far below the curve, the curve is no evidence for a law: that takes problems of mixed
difficulty.
Source: arXiv 2407.21787, Section 3.1 (law), arXiv 2502.17578, Section 3 (mixed difficulty); the
comparison is derived.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from jlab.sampling.coverage import k_grid, mean_interval
from jlab.sampling.law import (
    CoverageLaw,
    LawError,
    fit_coverage_law,
    law_error,
    resampled_laws,
)
from jlab.stats import percentile_interval

Solved = Callable[[Int[np.ndarray, "k"]], Float[np.ndarray, "problems k"]]

FINE = 100  # points of the grid on which errors are taken, as in the paper's Appendix C.1
LAWS = 1000  # resampled laws behind the intervals of a and b
LEAST = 0.02  # coverage at the largest budget below which there is nothing to judge
ABSURD = 1000  # times that a law may begin below its curve: 3 to 12 where difficulty is mixed
STRAIGHT = 0.95  # R² from which a curve may be called a straight line in log k


class LawStudy(NamedTuple):
    """The law of a curve, how far it is off, and how far simpler curves are."""

    law: CoverageLaw
    low: CoverageLaw  # ends of the 95 % interval of a and of b
    high: CoverageLaw
    error: LawError
    outside: float  # share of the budgets at which the law leaves the interval; NaN without one
    straight: float  # R² of a straight line in log k
    equal: float  # p of the curve 1 - (1 - p)^k that is closest
    equal_error: LawError


class CoverageStudy(NamedTuple):
    """A coverage curve over problems, with 95 % intervals by resampling them.

    The ends of all intervals are NaN where resampling cannot tell: see `coverage_interval`.
    """

    problems: int
    k: Int[np.ndarray, "k"]
    coverage: Float[np.ndarray, "k"]
    low: Float[np.ndarray, "k"]
    high: Float[np.ndarray, "k"]
    law: LawStudy | None  # None where there is nothing to fit: one budget, or a flat curve

    def at(self, k: int) -> tuple[float, float, float]:
        """Coverage at one of the budgets, and the ends of its interval."""
        place = int(np.flatnonzero(self.k == k)[0])
        return tuple(float(row[place]) for row in (self.coverage, self.low, self.high))


def study_coverage(
    solved: Solved, most: int, *, samples: int = 1000, seed: int = 0
) -> CoverageStudy:
    """The curve from 1 to `most` samples, with everything that is said about it.

    Args:
        solved: chance of every problem to be solved, at given budgets.
        most: largest budget.
        samples: resampled curves behind the intervals.
        seed: of the resampling.

    Example:
        >>> p = np.random.default_rng(0).beta(0.3, 4, 256)
        >>> study = study_coverage(lambda ks: 1 - (1 - p[:, None]) ** ks[None, :], 1000)
        >>> study.law.error.worst < 0.03, study.law.equal_error.worst > 0.2
        (True, True)
    """
    ks = decades(most)
    curves = np.asarray(solved(ks), np.float64)
    low, high = mean_interval(curves, samples=samples, seed=seed)
    study = CoverageStudy(len(curves), ks, curves.mean(0), low, high, None)
    grid = k_grid(most)
    if len(grid) < 2 or np.ptp(study.coverage) < 1e-9:
        return study
    return study._replace(law=_study_law(solved, grid, study, seed))


def decades(most: int) -> Int[np.ndarray, "k"]:
    """The fine grid with the round budgets 1, 10, 100 ... that tables show."""
    return np.unique(np.append(k_grid(most, points=FINE), round_budgets(most)))


def round_budgets(most: int) -> list[int]:
    """1, 10, 100 ... below `most`, and `most`."""
    return [*(10**e for e in range(len(str(most))) if 10**e < most), most]


def verdict(study: CoverageStudy) -> str:
    """In words, whether coverage grows log-linearly and follows exp(a k^b)."""
    return " ".join(filter(None, (_on_the_law(study), _on_the_interval(study))))


def _on_the_interval(study: CoverageStudy) -> str:
    """Why there is none, or nothing."""
    if not np.isnan(study.low).any():
        return ""
    if study.problems == 1:
        return "One problem gives no interval: what another choice of problems would give is open."
    what = "No problem is solved" if study.coverage[-1] == 0 else "All problems give the same"
    return f"{what}: resampling them cannot give an interval."


def _on_the_law(study: CoverageStudy) -> str:
    if study.law is None:
        what = "one budget" if len(study.k) < 2 else "a curve that does not rise"
        return f"No law is fitted to {what}."
    law, first, last = study.law, study.coverage[0], study.coverage[-1]
    if last < LEAST:
        return f"Coverage stays below {LEAST:.0%}: too little is solved to speak of a law."
    begins = float(np.exp(law.law.a))  # at k = 1
    if law.equal_error.mean <= law.error.mean or begins < first / ABSURD:
        return (
            "There is no log-linear law here: exp(a k^b) with its two parameters is"
            f" {law.error.mean:.3f} off on average and begins at {begins:.1g} where coverage begins"
            f" at {first:.2g}; the curve of problems that are all equally hard, 1 - (1 - p)^k with"
            f" one p = {law.equal:.2g}, is {law.equal_error.mean:.3f} off."
        )
    said = [_straightness(law.straight, last)]
    ends = f"exp(a k^b) is {law.error.mean:.3f} off on average, {law.error.worst:.3f} at worst"
    if law.outside > 0:
        ends += f", and outside the interval of the curve at {law.outside:.0%} of the budgets"
        ends += ": a summary of the curve, not its exact form"
    elif law.outside == 0:
        ends += ", and within the interval of the curve throughout"
    said.append(f"{ends}.")
    if law.error.worst > 0.25 * (last - first):
        said.append("That is over a quarter of its rise: no law to rely on.")
    said.append(
        f"Equally hard problems would give a curve {law.equal_error.mean:.3f} off: difficulty is"
        " mixed."
    )
    return " ".join(said)


def _straightness(r2: float, last: float) -> str:
    if r2 >= STRAIGHT:
        return f"Coverage is close to a straight line in log k (R² {r2:.3f})."
    why = ", since it saturates" if last > 0.9 else ""
    return f"Coverage is no straight line in log k (R² {r2:.3f}){why}."


def _study_law(solved: Solved, grid: np.ndarray, study: CoverageStudy, seed: int) -> LawStudy:
    curves = np.asarray(solved(grid), np.float64)
    coverage = curves.mean(0)
    law = fit_coverage_law(grid, coverage)
    low = high = CoverageLaw(np.nan, np.nan)
    unknown = bool(np.isnan(study.low).any())
    if not unknown:
        laws = resampled_laws(grid, curves, samples=LAWS, seed=seed)
        ends = zip(*(percentile_interval(values) for values in laws), strict=True)
        low, high = (CoverageLaw(*map(float, end)) for end in ends)
    fine = np.isin(study.k, k_grid(int(grid[-1]), points=FINE))
    k, c = study.k[fine], study.coverage[fine]
    predicted = law.predict(k)
    slack = 1e-9  # where every resampled curve is the same, rounding must not count
    outside = (predicted < study.low[fine] - slack) | (predicted > study.high[fine] + slack)
    p = _equal_difficulty(grid, coverage)
    gap = np.abs(_equal_curve(p, k) - c)
    return LawStudy(
        law=CoverageLaw(*map(float, law)),
        low=low,
        high=high,
        error=law_error(law, k, c),
        outside=np.nan if unknown else float(outside.mean()),
        straight=_straight(grid, coverage),
        equal=p,
        equal_error=LawError(float(gap.mean()), float(gap.std()), float(gap.max())),
    )


def _straight(k: Int[np.ndarray, "k"], c: Float[np.ndarray, "k"]) -> float:
    """R² of a straight line through c over log k."""
    return float(np.corrcoef(np.log(k), c)[0, 1] ** 2)


def _equal_difficulty(k: Int[np.ndarray, "k"], c: Float[np.ndarray, "k"]) -> float:
    """The p whose curve 1 - (1 - p)^k is closest by least squares."""
    from scipy.optimize import minimize_scalar

    def squares(log_p: float) -> float:
        return float(((_equal_curve(np.exp(log_p), k) - c) ** 2).sum())

    # Squares have one valley on this scale, but flat ends: begin where the grid is lowest.
    starts = np.linspace(-25, -1e-6, 251)
    best = int(np.argmin([squares(start) for start in starts]))
    bounds = starts[max(best - 1, 0)], starts[min(best + 1, len(starts) - 1)]
    return float(np.exp(minimize_scalar(squares, bounds=bounds, method="bounded").x))


def _equal_curve(p: float, k: Int[np.ndarray, "k"]) -> Float[np.ndarray, "k"]:
    return -np.expm1(k * np.log1p(-min(p, 1 - 1e-12)))
