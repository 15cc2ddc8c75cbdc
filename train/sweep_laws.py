"""How well the mixing laws describe runs: {linear, log-linear} x {static, dynamic}.

Static: the losses at the end of whole runs. Dynamic: the losses after branches of one checkpoint,
from known losses before them.
Source: Chen et al., "Aioli", ICLR 2025, Section 4.1 (arXiv 2411.05735).
"""

from collections.abc import Callable
from functools import partial

import numpy as np
from jaxtyping import Float

from jlab.mixing import LinearLaw, LogLinearLaw, fit_linear_law, fit_log_linear_law
from jlab.mixing.law_quality import law_quality

Law = LinearLaw | LogLinearLaw
LAWS = ("log-linear", "linear")  # in the order of the paper


def fidelity(
    p: Float[np.ndarray, "n m"],
    losses: Float[np.ndarray, "n k"],
    before: Float[np.ndarray, "k"] | None = None,
) -> dict[str, dict]:
    """Both laws fitted to runs, and judged on them, as JSON.

    Args:
      p: mixtures of the runs.
      losses: after them.
      before: losses that all runs began at (dynamic law).

    Returns:
      By the law's name: `r2[k]` and `mse[k]` on the runs it was fitted to, as the paper gives them;
      `r2_left_out[k]`, with every run predicted by a law fitted to the others; `predicted[n, k]`.
    """
    fits = {
        "log-linear": fit_log_linear_law,
        "linear": partial(fit_linear_law, start=before),
    }
    found = {}
    for name, fit in fits.items():
        law = fit(p, losses)
        quality = law_quality(law, p, losses)
        found[name] = {
            "r2": quality.r2.tolist(),
            "mse": quality.mse.tolist(),
            "r2_left_out": left_out_r2(fit, p, losses).tolist(),
            "predicted": law.predict(p).tolist(),
        }
    return found


def left_out_r2(
    fit: Callable[..., Law], p: Float[np.ndarray, "n m"], losses: Float[np.ndarray, "n k"]
) -> Float[np.ndarray, "k"]:
    """R^2 of predictions for each run by a law fitted to all others; 0 for constant losses."""
    n = len(p)
    others = [np.arange(n) != run for run in range(n)]
    predicted = np.stack(
        [fit(p[rest], losses[rest]).predict(p[run]) for run, rest in enumerate(others)]
    )
    total = ((losses - losses.mean(0)[None, :]) ** 2).sum(0)
    varies = np.ptp(losses, axis=0) > 0
    left = ((predicted - losses) ** 2).sum(0)
    return np.where(varies, 1 - left / np.where(varies, total, 1), 0.0)
