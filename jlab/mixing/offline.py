"""Methods that learn from finished runs: fit a law to (proportions, losses), minimise, train on it.

The estimator is regression over runs, the solver direct minimisation; what differs is the law.
Source: Chen et al., "Aioli", ICLR 2025, Section 3.2 and Table 2 (arXiv 2411.05735).
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from jlab.mixing.fit_law import fit_linear_law, fit_log_linear_law
from jlab.mixing.fixed import static
from jlab.mixing.law_runs import check_runs
from jlab.mixing.regressor import RegressorLaw, check_prior, fit_regressor
from jlab.training.mixer import Mixer

Bound = float | Float[np.ndarray, "m"]


def grid_search(p: Float[np.ndarray, "n m"], loss: Float[np.ndarray, "n k"]) -> Mixer:
    """The run with the lowest mean loss; no law at all.

    Raises:
        ValueError: a table with a missing loss or with rows off the simplex.
    """
    p, loss = check_runs(p, loss)
    return _static(p[loss.mean(1).argmin()])


def dml(
    p: Float[np.ndarray, "n m"],
    loss: Float[np.ndarray, "n k"],
    *,
    floor: Bound = 0.0,
    cap: Bound = 1.0,
    **fit: object,
) -> Mixer:
    """Data mixing laws: the minimum of a log-linear law, L_i(p) = c_i + exp(-(A p)_i).

    Args:
        p: proportions of the runs.
        loss: their losses, or how far the losses moved; in nats.
        floor: least share of a group.
        cap: greatest share of a group.
        **fit: options of `fit_log_linear_law`.

    Raises:
        ValueError: a table that cannot be fitted; names what is wrong with it.

    Source: Ye et al., "Data Mixing Laws", ICLR 2025 (arXiv 2403.16952).
    """
    return _static(fit_log_linear_law(p, loss, **fit).minimize(floor=floor, cap=cap))


def regmix(
    p: Float[np.ndarray, "n m"],
    loss: Float[np.ndarray, "n k"],
    *,
    regressor: str = "lightgbm",
    prior: Float[np.ndarray, "m"] | None = None,
    floor: Bound = 0.0,
    cap: Bound = 1.0,
    seed: int = 0,
) -> Mixer:
    """RegMix: regress the losses on the proportions, then average the best predicted mixtures.

    Args:
        p: proportions of many small runs.
        loss: their losses in nats.
        regressor: `lightgbm` (extra `[regmix]`, at least 50 runs), or `linear`, which needs as
            many runs as groups.
        prior: share of each group among all tokens, where mixtures are sampled; None: the mean
            of p.
        floor: least share of a group.
        cap: greatest share of a group.
        seed: of the trees and the sampling.

    Raises:
        ValueError: a table that cannot be fitted, or another regressor.
        ModuleNotFoundError: lightgbm is not installed; names the extra.

    Source: Liu et al., "RegMix", ICLR 2025 (arXiv 2407.01492).
    """
    if regressor == "lightgbm":
        law = fit_regressor(p, loss, prior=prior, seed=seed)
    elif regressor == "linear":
        slopes = -fit_linear_law(p, loss).matrix
        prior = check_prior(prior, np.asarray(p, np.float64))
        law = RegressorLaw(tuple(map(_Plane, slopes)), prior, seed)
    else:
        raise ValueError(f"regressor must be lightgbm or linear; got {regressor!r}")
    return _static(law.minimize(floor=floor, cap=cap))


class _Plane(NamedTuple):
    """A linear regressor of one loss, beside the trees."""

    slopes: Float[np.ndarray, "m"]

    def predict(self, p: Float[np.ndarray, "n m"]) -> Float[np.ndarray, "n"]:
        return p @ self.slopes


def _static(proportions: Float[np.ndarray, "m"]) -> Mixer:
    """A static mixer of proportions that add up to 1 but for rounding."""
    return static(proportions / proportions.sum())
