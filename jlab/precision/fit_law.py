"""Fit a law to a table of runs, say how well it holds and how sure its numbers are.

The paper says of its fits that alpha and beta are one number, and nothing else; residuals, robust
loss and many starts are those of Hoffmann et al. 2022 (arXiv 2203.15556, approach 3). Losses see
some parameters only in combination: C_T e^b (so b is 0 in every fit), and gamma_x with n_x where
f_x is close to 1 at all bits. Read the f values at the bits that were seen; `loose` names the
rest.
Source: Kumar, Ankner et al., arXiv 2411.04330, Sections 3 to 5 and Appendix K.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from jlab.precision.fit_layout import loss_layout, rise_layout
from jlab.precision.fit_runs import Runs, check_quantised, check_runs, runs_of
from jlab.precision.fit_solve import Problem, Solution, loss_residuals, resolve, solve
from jlab.precision.law import FLOOR
from jlab.precision.law_forms import FORMS, Inputs
from jlab.precision.scaling_law import ScalingLaw
from jlab.precision.table import Table
from jlab.stats import percentile_interval

HUBER = 1e-3  # of the logarithm of a loss
STARTS = 32
STEP = 1e-5  # of the differences behind standard errors
LOOSE = 0.2  # standard error, of a logarithm or of an offset, from which a number is not known


class Fitted(NamedTuple):
    """A fitted law, with what it was fitted to and, where asked for, its refits."""

    law: ScalingLaw
    objective: float  # sum of Huber losses, r^2/2 below delta
    r2: float  # of the trained models' losses
    rise_r2: float  # of what quantisation adds to them; NaN without
    errors: dict[str, float]  # standard errors of the logarithm, of offsets of themselves
    runs: Runs
    problem: Problem
    solution: Solution
    refits: tuple[ScalingLaw, ...] = ()

    @property
    def tied(self) -> bool:
        """Whether beta is alpha."""
        return self.problem.loss.tied

    @property
    def loose(self) -> list[str]:
        """Parameters that the runs do not determine, though what they predict may be sharp."""
        return [name for name, error in self.errors.items() if not error < LOOSE]

    def interval(
        self, of: Callable[[ScalingLaw], Float[np.ndarray, "..."]], level: float = 0.95
    ) -> tuple[Float[np.ndarray, "..."], Float[np.ndarray, "..."]]:
        """Ends of the central interval of anything that a law says, over the refits.

        Raises:
            ValueError: a fit without refits: ask for `samples`.
        """
        if not self.refits:
            raise ValueError("an interval needs refits: fit with samples > 0")
        return percentile_interval(np.stack([of(law) for law in self.refits]), level=level)


def fit(
    table: Table,
    form: str = "unified",
    *,
    bias: bool = True,
    tied: bool = True,
    joint: bool = False,
    method: str | None = None,
    huber: float = HUBER,
    starts: int = STARTS,
    samples: int = 0,
    seed: int = 0,
) -> Fitted:
    """Fit a form of the law to the runs of a table that it speaks of.

    Args:
        table: the runs.
        form: a key of `FORMS`.
        bias: with the offsets of Appendix K.
        tied: beta = alpha, as in the paper.
        joint: the trained models and their quantisations together, by the losses of both; else
            first the ones, then, by the logarithm of the rise over each run's own loss, the
            others. The second sees small rises, which the first loses in the noise between runs.
        method: of quantisation after training, where the table has several.
        huber: delta, of the logarithm of a loss; inf for least squares.
        starts: places to begin from.
        samples: refits to resampled runs behind intervals; 200 are enough for 90 %.
        seed: of the resampling.

    Raises:
        ValueError: an unknown form, a setting out of range, or runs that do not determine it.

    Source: Appendix K; the procedure is Hoffmann et al.'s (see above).
    """
    if form not in FORMS:
        raise ValueError(f"form must be one of {', '.join(FORMS)}; got {form!r}")
    for name, value, least in (("starts", starts, 1), ("samples", samples, 0)):
        if value < least:
            raise ValueError(f"{name} must be at least {least}; got {value}")
    runs = runs_of(table, FORMS[form], method)
    problem = _problem(form, runs, bias, tied, joint, huber)
    solution = solve(problem, runs, starts)
    law = ScalingLaw(solution.params(problem, runs), form)
    fitted = Fitted(
        law,
        float(solution.objective[0]),
        explained(predicted(law, runs), runs.loss),
        explained(predicted_rise(law, runs), runs.rise),
        standard_errors(problem, runs, solution),
        runs,
        problem,
        solution,
    )
    return fitted._replace(refits=bootstrap_law(fitted, samples, seed)) if samples else fitted


def bootstrap_law(fitted: Fitted, samples: int, seed: int = 0) -> tuple[ScalingLaw, ...]:
    """The law refitted to resampled runs, each with all of its quantisations.

    Runs are drawn among those with the same parts in low precision, so that every refit has as
    many runs of each kind.

    Args:
        fitted: the fit.
        samples: how many.
        seed: of the drawing.
    """
    random = np.random.default_rng(seed)
    low = np.isfinite(fitted.runs.inputs[:, 2:5]) @ [1, 2, 4]
    kinds = [np.flatnonzero(low == kind) for kind in np.unique(low)]
    groups = [
        np.concatenate([random.choice(kind, len(kind)) for kind in kinds]) for _ in range(samples)
    ]
    return refit(fitted, groups)


def refit(fitted: Fitted, groups: Sequence[np.ndarray]) -> tuple[ScalingLaw, ...]:
    """The law fitted to other choices of the runs, by their row numbers, from near the first."""
    problem, runs = fitted.problem, fitted.runs
    found = resolve(problem, runs, list(groups), fitted.solution)
    return tuple(
        ScalingLaw(found.params(problem, runs, group), problem.form) for group in range(len(groups))
    )


def predicted(law: ScalingLaw, runs: Runs) -> Float[np.ndarray, "runs"]:
    """Losses of trained models; f is kept above 0, as in the fit."""
    return FORMS[law.form].loss(law.complete, _plain(runs.inputs, runs), FLOOR)


def predicted_rise(law: ScalingLaw, runs: Runs) -> Float[np.ndarray, "post"]:
    """What quantisation after training adds to the losses; NaN where the form does not say."""
    form = FORMS[law.form]
    if form.degradation is None:
        return np.full(len(runs.rise), np.nan)
    return form.degradation(law.complete, _plain(runs.post_inputs, runs), FLOOR)


def explained(predicted: Float[np.ndarray, "n"], observed: Float[np.ndarray, "n"]) -> float:
    """R^2 = 1 - SS_res / SS_tot; NaN where nothing varies."""
    total = ((observed - observed.mean()) ** 2).sum() if len(observed) else 0
    return float(1 - ((predicted - observed) ** 2).sum() / total) if total > 0 else float("nan")


def standard_errors(problem: Problem, runs: Runs, solution: Solution) -> dict[str, float]:
    """How far each number of the trained models' fit may lie off, from the curvature at its end.

    The size of the noise is taken from the median residual, which a few bad runs do not move.
    """
    residuals = loss_residuals(problem.form, problem.loss)
    n, theta = len(runs.loss), solution.loss[0]
    data = (runs.inputs, np.log(runs.loss), 1.0)
    moved = STEP * np.eye(len(theta))
    slopes = np.stack(
        [residuals(theta + step, *data) - residuals(theta - step, *data) for step in moved], axis=1
    ) / (2 * STEP)
    left = residuals(theta, *data)
    noise = 1.4826 * np.median(np.abs(left)) * np.sqrt(n / max(n - len(theta), 1))
    values, vectors = np.linalg.eigh(slopes.T @ slopes)
    inverse = 1 / np.maximum(values, 1e-12 * values.max())  # directions that move nothing: huge
    spread = noise * np.sqrt((vectors**2 * inverse[None, :]).sum(1))
    return dict(zip(problem.loss.names, spread.tolist(), strict=True))


def _problem(form, runs, bias, tied, joint, huber) -> Problem:
    its = FORMS[form]
    loss = loss_layout(its, runs.parts, bias=bias, tied=tied)
    check_runs(form, runs, len(loss.names), tied)
    rise = None
    if its.degradation is not None:
        rise = rise_layout(its, runs.post_parts)
        check_quantised(form, runs, len(rise.names))
    return Problem(form, loss, rise, joint and rise is not None, huber)


def _plain(inputs: Float[np.ndarray, "rows 6"], runs: Runs) -> Inputs:
    N, D, *bits = inputs.T
    return Inputs(N * runs.units[0], D * runs.units[1], *bits)
