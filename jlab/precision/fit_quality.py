"""How well a fit holds: what it predicts for its runs, R^2, and the errors of its numbers."""

import numpy as np
from jaxtyping import Float

from jlab.precision.fit_residuals import loss_residuals
from jlab.precision.fit_runs import Runs
from jlab.precision.fit_solve import Problem, Solution
from jlab.precision.law import FLOOR
from jlab.precision.law_forms import FORMS, Inputs
from jlab.precision.scaling_law import ScalingLaw

STEP = 1e-5  # of the differences behind standard errors


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


def _plain(inputs: Float[np.ndarray, "rows 6"], runs: Runs) -> Inputs:
    N, D, *bits = inputs.T
    return Inputs(N * runs.units[0], D * runs.units[1], *bits)
