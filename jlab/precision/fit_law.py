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
from jlab.precision.fit_quality import explained, predicted, predicted_rise, standard_errors
from jlab.precision.fit_runs import Runs, check_quantised, check_runs, runs_of
from jlab.precision.fit_solve import Problem, Solution, resolve, solve
from jlab.precision.law_forms import FORMS
from jlab.precision.scaling_law import ScalingLaw
from jlab.precision.table import Table
from jlab.stats import percentile_interval

HUBER = 1e-3  # of the logarithm of a loss
STARTS = 32
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
    many runs of each kind. A draw that does not determine the law gives none.

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
    unknown = _unknown(fitted.law)
    return tuple(law for law in refit(fitted, groups) if _unknown(law) == unknown)


def _unknown(law: ScalingLaw) -> list[str]:
    return [name for name, value in law.params.items() if np.isnan(value)]


def refit(fitted: Fitted, groups: Sequence[np.ndarray]) -> tuple[ScalingLaw, ...]:
    """The law fitted to other choices of the runs, by their row numbers, from near the first."""
    problem, runs = fitted.problem, fitted.runs
    found = resolve(problem, runs, list(groups), fitted.solution)
    return tuple(
        ScalingLaw(found.params(problem, runs, group), problem.form) for group in range(len(groups))
    )


def _problem(form, runs, bias, tied, joint, huber) -> Problem:
    its = FORMS[form]
    loss = loss_layout(its, runs.parts, bias=bias, tied=tied)
    check_runs(form, runs, len(loss.names), tied)
    rise = None
    if its.degradation is not None:
        rise = rise_layout(its, runs.post_parts)
        check_quantised(form, runs, len(rise.names))
    return Problem(form, loss, rise, joint and rise is not None, huber)
