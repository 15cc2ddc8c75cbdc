"""A law with all that is asked of it: what it predicts, what it recommends, how sure that is.

The objective is a weighted mean of the losses; it is treated as one more loss, the last column.
Symbols: w -> weights[k], which sum to 1.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from jlab.mixing.law import Law, LogLinearLaw
from jlab.mixing.law_bootstrap import LawBootstrap, bootstrap_law
from jlab.mixing.regressor import RegressorLaw
from jlab.stats import percentile_interval


class Estimate(NamedTuple):
    """A value with its 95 % interval; the ends are nan where nothing was refitted."""

    value: Float[np.ndarray, "..."]
    low: Float[np.ndarray, "..."]
    high: Float[np.ndarray, "..."]


class Study(NamedTuple):
    """A fitted law, its refits, and the optimum of each."""

    law: Law | RegressorLaw
    refits: LawBootstrap | None
    weights: Float[np.ndarray, "k"]
    optimum: Float[np.ndarray, "m"]
    optima: Float[np.ndarray, "samples m"]  # of the refits; none without them

    def predict(self, p: Float[np.ndarray, "... m"]) -> Float[np.ndarray, "... k+1"]:
        """Losses at proportions p, then the objective."""
        return with_objective(self.law.predict(p), self.weights)

    def objective(self, p: Float[np.ndarray, "... m"]) -> Float[np.ndarray, "..."]:
        """The objective at proportions p."""
        return self.law.predict(p) @ self.weights

    def predicted(self, p: Float[np.ndarray, "m"]) -> Estimate:
        """The objective at one mixture."""
        return self._estimate(self.objective(p), lambda refits: refits.predict(p) @ self.weights)

    def shares(self) -> Estimate:
        """The optimum, with an interval for every group's share."""
        return self._estimate(self.optimum, lambda _: self.optima)

    def parameters(self) -> dict[str, Estimate]:
        """The law's fields with an interval for every number; trees have none."""
        if isinstance(self.law, RegressorLaw):
            return {}
        fields = self.law._asdict().items()
        return {
            k: self._estimate(x, lambda refits, k=k: getattr(refits.laws, k)) for k, x in fields
        }

    def _estimate(self, value: np.ndarray, of_refits: Callable) -> Estimate:
        if self.refits is None:
            nothing = np.full_like(value, np.nan)
            return Estimate(value, nothing, nothing)
        return Estimate(value, *percentile_interval(of_refits(self.refits)))


def study_law(
    fit: Callable[..., Law | RegressorLaw],
    p: Float[np.ndarray, "n m"],
    loss: Float[np.ndarray, "n k"],
    *,
    weights: Float[np.ndarray, "k"],
    floor: Float[np.ndarray, "m"],
    cap: Float[np.ndarray, "m"],
    samples: int,
    seed: int,
) -> Study:
    """Fit a law, minimise its objective, and do the same with every refit of a bootstrap.

    Args:
        fit: (p, loss) -> law.
        p: proportions of the runs.
        loss: what was measured.
        weights: of the objective.
        floor: smallest shares of the optimum.
        cap: largest shares.
        samples: refits; 0 for none. A law with as many parameters as runs has no residuals to
            resample, and so none either.
        seed: of the bootstrap.
    """
    law = fit(p, loss)
    best = law.minimize(weights, floor=floor, cap=cap)
    if samples == 0 or len(p) <= law.parameters_per_loss:
        return Study(law, None, weights, best, best[None, :][:0])
    # Refits begin where the fit ended, which is quicker than the many starts that it needed.
    refit = partial(fit, starts=law) if isinstance(law, LogLinearLaw) else fit
    refits = bootstrap_law(refit, p, loss, samples=samples, seed=seed)
    laws = (type(law)(*fields) for fields in zip(*refits.laws, strict=True))
    optima = np.stack([law.minimize(weights, floor=floor, cap=cap) for law in laws])
    return Study(law, refits, weights, best, optima)


def with_objective(
    loss: Float[np.ndarray, "... k"], weights: Float[np.ndarray, "k"]
) -> Float[np.ndarray, "... k+1"]:
    """The losses with their weighted mean as one more column."""
    return np.concatenate([loss, (loss @ weights)[..., None]], axis=-1)
