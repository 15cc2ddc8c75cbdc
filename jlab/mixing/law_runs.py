"""Checks of a table of runs: in which proportions each was trained, and where its losses ended.

Proportions are used exactly as given, never scaled: published tables are rounded to three digits,
and a law fitted to changed inputs is another law.
"""

import reprlib

import numpy as np
from jaxtyping import Float

SUM_TOLERANCE = 0.005  # of a row of proportions: room for 17 groups rounded to three digits


def check_runs(
    p: Float[np.ndarray, "n m"], loss: Float[np.ndarray, "*batch n k"]
) -> tuple[np.ndarray, np.ndarray]:
    """Both tables as float64, their values unchanged.

    Raises:
        ValueError: tables that do not match, a row off the simplex, a loss that is missing; the
            message names row and column.
    """
    p, loss = np.asarray(p, np.float64), np.asarray(loss, np.float64)
    if p.ndim != 2 or 0 in p.shape:
        raise ValueError(f"p must be [runs, groups], one row per run; got shape {p.shape}")
    if loss.ndim < 2 or loss.shape[-2] != len(p) or 0 in loss.shape:
        raise ValueError(
            f"loss must be [runs, losses] with one row per row of p ({len(p)}); "
            f"got shape {loss.shape}"
        )
    off = ~(np.all(p >= 0, axis=1) & (np.abs(p.sum(1) - 1) <= SUM_TOLERANCE))  # True for nan
    if off.any():
        run = int(np.argmax(off))
        raise ValueError(
            f"p[{run}] must be not negative and sum to 1 within {SUM_TOLERANCE}; "
            f"got {reprlib.repr(p[run].tolist())}, which sums to {p[run].sum():.6g}"
        )
    if not np.all(np.isfinite(loss)):
        *_, run, column = np.argwhere(~np.isfinite(loss))[0]
        raise ValueError(
            f"loss[{run}, {column}] is {loss[..., run, column].flat[0]}: "
            "every run needs a finite value of every loss"
        )
    return p, loss


def check_enough_runs(p: Float[np.ndarray, "n m"], law: str, needed: int) -> None:
    """Refuse mixtures that do not determine the parameters of a law.

    Raises:
        ValueError: fewer different mixtures than parameters, or shares that move together.
    """
    different = len(np.unique(p, axis=0))
    if different < needed:
        raise ValueError(
            f"a {law} law of {p.shape[1]} groups needs runs of at least {needed} different "
            f"mixtures; p has {different} (in {len(p)} runs)"
        )
    rank = np.linalg.matrix_rank(p)
    if rank < p.shape[1]:
        raise ValueError(
            f"p varies in only {rank} of {p.shape[1]} directions, so a {law} law is not "
            "determined: add runs that change the other groups' shares, or set ridge"
        )
