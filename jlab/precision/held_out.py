"""How well a form predicts runs that it was not fitted to, whole cells of the grid at a time.

Runs of one cell, with one size and one number of tokens, differ in their bits alone and share
much: a form that has seen some of them need not understand the others.
Source: Kumar, Ankner et al., arXiv 2411.04330, Appendix C, Table 1 (which says no more of its
split than "held-out").
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from jlab.precision.fit_law import Fitted, refit
from jlab.precision.fit_quality import explained, predicted, predicted_rise
from jlab.precision.fit_runs import Runs

RULES = ("cells", "largest-N", "largest-D")
FOLDS = 5


class HeldOut(NamedTuple):
    """R^2 over runs, each predicted by a fit that has not seen its cell; NaN without any."""

    r2: float  # of the trained models' losses
    rise_r2: float  # of what quantisation after training adds to them
    runs: int  # that were held out


def held_out(fitted: Fitted, rule: str = "cells", seed: int = 0) -> HeldOut:
    """Judge a form by runs that are held out.

    Args:
        fitted: the fit to all runs, near which the others begin.
        rule: `cells`: every cell once, in five folds; `largest-N`, `largest-D`: the largest models
            or the longest runs, predicted from the others.
        seed: of the folds.

    Raises:
        ValueError: an unknown rule.
    """
    runs = fitted.runs
    masks = [mask for mask in folds(runs, rule, seed) if _leaves_enough(fitted, mask)]
    if not masks:
        return HeldOut(np.nan, np.nan, 0)
    laws = refit(fitted, [np.flatnonzero(~mask) for mask in masks])
    loss, rise = np.full(len(runs.loss), np.nan), np.full(len(runs.rise), np.nan)
    for law, mask in zip(laws, masks, strict=True):
        loss[mask] = predicted(law, runs)[mask]
        rise[mask[runs.owner]] = predicted_rise(law, runs)[mask[runs.owner]]
    return HeldOut(_r2(loss, runs.loss), _r2(rise, runs.rise), int(np.isfinite(loss).sum()))


def folds(runs: Runs, rule: str, seed: int = 0) -> list[Bool[np.ndarray, "runs"]]:
    """Which runs are held out, one mask per fold.

    Raises:
        ValueError: an unknown rule.
    """
    if rule not in RULES:
        raise ValueError(f"rule must be one of {', '.join(RULES)}; got {rule!r}")
    if rule != "cells":
        column = runs.inputs[:, ("largest-N", "largest-D").index(rule)]
        return [column == column.max()]
    cells, cell = np.unique(runs.inputs[:, :2], axis=0, return_inverse=True)
    fold = np.random.default_rng(seed).permutation(len(cells)) % FOLDS
    return [(fold == k)[cell.ravel()] for k in range(min(FOLDS, len(cells)))]


def _leaves_enough(fitted: Fitted, mask: Bool[np.ndarray, "runs"]) -> bool:
    """Whether the other runs determine the form: as many sizes and settings as it needs."""
    left = fitted.runs.inputs[~mask]
    sizes, tokens = (len(np.unique(left[:, column])) for column in (0, 1))
    enough = len(left) >= len(fitted.problem.loss.names)
    return enough and min(sizes, tokens) >= 2 and sizes + tokens >= (5 if fitted.tied else 6)


def _r2(found: Float[np.ndarray, "n"], observed: Float[np.ndarray, "n"]) -> float:
    known = np.isfinite(found)
    return explained(found[known], observed[known]) if known.any() else float("nan")
