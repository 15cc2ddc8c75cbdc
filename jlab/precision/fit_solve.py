"""The arithmetic of a fit: many resamplings of the runs at once, each from several starts.

First the trained models, residual log L^ - log L, by Huber loss; then how quantisation raises
their losses, residual log delta^ - log delta, by least squares; at last, if asked, both together
on the losses of all rows. Minimised by Levenberg-Marquardt under vmap in float64 (the paper names
no optimiser; Hoffmann et al. 2022 minimise the same sum of Huber losses by L-BFGS).
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from jlab.precision.fit_degradation import fit_degradation
from jlab.precision.fit_layout import (
    Layout,
    beside,
    complete,
    in_plain_units,
    loss_starts,
    rise_starts,
)
from jlab.precision.fit_residuals import loss_residuals, rise_residuals, total_residuals
from jlab.precision.fit_runs import Runs
from jlab.precision.law_forms import FORMS, Inputs
from jlab.stats import multistart_fit
from jlab.stats.fit import MAX_STEPS

BLOCK = 64  # rows are filled up to a multiple of it
AGAIN = 2  # starts of a refit: the fit itself, and beside it
REFIT_STEPS = 50  # of one: flat directions may go on for hundreds without moving a prediction


class Problem(NamedTuple):
    """A form, the numbers to turn, and how to judge them."""

    form: str
    loss: Layout
    rise: Layout | None
    joint: bool
    huber: float


class Solution(NamedTuple):
    """Numbers of both layouts, a row per resampling."""

    loss: Float[np.ndarray, "groups d"]
    rise: Float[np.ndarray, "groups e"] | None
    objective: Float[np.ndarray, "groups"]  # sum of the Huber losses of the last fit by them

    def params(self, problem: Problem, runs: Runs, group: int = 0) -> dict[str, float]:
        """Parameters of one resampling, for N and D as plain counts; NaN where no run tells."""
        found = problem.loss.params(self.loss[group])
        if self.rise is not None:
            found |= problem.rise.params(self.rise[group])
        plain = in_plain_units(found, runs.units)
        return {k: float(v) for k, v in complete(FORMS[problem.form], plain).items()}


def solve(problem: Problem, runs: Runs, starts: int) -> Solution:
    """Fit all runs, from `starts` places."""
    form = FORMS[problem.form]
    begin = loss_starts(form, problem.loss, starts, runs.inputs, runs.loss)
    rise = None
    if problem.rise is not None:
        rise = rise_starts(problem.rise, starts, runs.rise[runs.usable])
    return _solve(problem, runs, [np.arange(len(runs.loss))], (begin, rise), MAX_STEPS)


def resolve(
    problem: Problem, runs: Runs, groups: list[Int[np.ndarray, "rows"]], near: Solution
) -> Solution:
    """Fit other choices of the runs, with repetitions, from near an earlier solution."""
    rise = None if near.rise is None else beside(near.rise[0], AGAIN)
    return _solve(problem, runs, groups, (beside(near.loss[0], AGAIN), rise), REFIT_STEPS)


def _solve(problem, runs, groups, begin, steps) -> Solution:
    rows, kept = _padded(groups)
    found = multistart_fit(
        loss_residuals(problem.form, problem.loss),
        np.broadcast_to(begin[0], (len(groups), *begin[0].shape)),
        runs.inputs[rows],
        np.log(runs.loss[rows]),
        kept,
        huber=problem.huber,
        data_axes=(0, 0, 0),
        max_steps=steps,
    )
    solution = Solution(found.params, None, found.cost)
    if problem.rise is None:
        return solution
    rise = _solve_rise(problem, runs, groups, solution, begin[1], steps)
    solution = solution._replace(rise=rise)
    return _solve_jointly(problem, runs, groups, solution, steps) if problem.joint else solution


def _solve_rise(problem, runs, groups, solution, begin, steps) -> Float[np.ndarray, "groups e"]:
    owned = _owned(runs, runs.usable)
    rows, kept = _padded([np.concatenate([owned[run] for run in group]) for group in groups])
    if "C" not in FORMS[problem.form].post:
        return _solve_linear_rise(problem, runs, rows, kept)
    return multistart_fit(
        rise_residuals(problem.form, problem.loss, problem.rise),
        np.broadcast_to(begin, (len(groups), *begin.shape)),
        solution.loss,
        runs.post_inputs[rows],
        np.log(runs.rise[rows]),
        kept,
        data_axes=(0, 0, 0, 0),
        max_steps=steps,
    ).params


def _solve_linear_rise(problem, runs, rows, kept) -> Float[np.ndarray, "groups 4"]:
    """log delta is linear in what Equation 2 turns, but for signs and the logarithm of each."""
    found = []
    for its, weight in zip(rows, kept, strict=True):
        chosen = its[weight > 0]
        x = Inputs(*runs.post_inputs[chosen].T)
        try:
            params = fit_degradation(x.N, x.D, x.Ppost, runs.rise[chosen])
        except ValueError:
            if len(rows) == 1:  # the fit itself, not one of many to parts of the runs
                raise
            params = dict.fromkeys(("C_T", "gamma_D", "gamma_N", "gamma_post"), np.nan) | {"b": 0.0}
        found.append(problem.rise.theta(params))
    return np.stack(found)


def _solve_jointly(problem, runs, groups, solution, steps) -> Solution:
    both = np.concatenate([solution.loss, solution.rise], axis=1)
    starts = np.stack([beside(theta, AGAIN) for theta in both])
    n = len(runs.loss)
    inputs = np.concatenate([runs.inputs, runs.post_inputs])
    loss = np.concatenate([runs.loss, runs.post_loss])
    owned = _owned(runs, np.ones(len(runs.rise), bool))
    rows, kept = _padded(
        [np.concatenate([group, *(n + owned[run] for run in group)]) for group in groups]
    )
    found = multistart_fit(
        total_residuals(problem.form, problem.loss, problem.rise),
        starts,
        inputs[rows],
        np.log(loss[rows]),
        kept,
        huber=problem.huber,
        data_axes=(0, 0, 0),
        max_steps=steps,
    )
    cut = solution.loss.shape[1]
    return Solution(found.params[:, :cut], found.params[:, cut:], found.cost)


def _owned(runs: Runs, chosen: np.ndarray) -> list[Int[np.ndarray, "rows"]]:
    """Chosen quantisations of each run."""
    return [np.flatnonzero(chosen & (runs.owner == run)) for run in range(len(runs.loss))]


def _padded(groups: list[np.ndarray]) -> tuple[np.ndarray, Float[np.ndarray, "groups rows"]]:
    """Row numbers as one array, filled up with row 0, and 1 where they are meant."""
    longest = -(-max(map(len, groups)) // BLOCK) * BLOCK  # few shapes, few compilations
    rows = np.zeros((len(groups), longest), int)
    kept = np.zeros((len(groups), longest))
    for i, group in enumerate(groups):
        rows[i, : len(group)] = group
        kept[i, : len(group)] = 1
    return rows, kept
