"""A law with all that is asked of it: how well it fits, what it recommends, how sure that is.

The objective is a weighted mean of the losses; it is treated as one more loss, the last column.
Symbols: w -> weights[k], which sum to 1.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jlab.mixing.bootstrap_law import bootstrap_law
from jlab.mixing.law import Law, optimum
from jlab.stats import percentile_interval


class Estimate(NamedTuple):
    """A value with its 95 % interval; the ends are nan where nothing was resampled."""

    value: Float[np.ndarray, "..."]
    low: Float[np.ndarray, "..."]
    high: Float[np.ndarray, "..."]


class Study(NamedTuple):
    """A fitted law, the same law on resampled runs, and the optimum of each."""

    law: Law
    resampled: Law | None  # every field with the samples in front
    weights: Float[np.ndarray, "k"]
    optimum: Float[np.ndarray, "m"]
    optima: Float[np.ndarray, "samples m"]

    def predict(self, p: Float[np.ndarray, "... m"]) -> Float[np.ndarray, "... k+1"]:
        """Losses at proportions p, then the objective."""
        return with_objective(self.law.predict(p), self.weights)

    def objective(self, p: Float[np.ndarray, "... m"]) -> Float[np.ndarray, "..."]:
        """The objective at proportions p."""
        return self.predict(p)[..., -1]

    def predicted(self, p: Float[np.ndarray, "m"]) -> Estimate:
        """The objective at one mixture; the interval is that of the fitted runs' resamplings."""
        if self.resampled is None:
            return Estimate(self.objective(p), np.nan, np.nan)
        values = _each(lambda law: law.predict(jnp.asarray(p)), self.resampled) @ self.weights
        return Estimate(self.objective(p), *percentile_interval(values))

    def shares(self) -> Estimate:
        """The optimum, with an interval for every group's share."""
        if self.resampled is None:
            nothing = np.full_like(self.optimum, np.nan)
            return Estimate(self.optimum, nothing, nothing)
        return Estimate(self.optimum, *percentile_interval(self.optima))

    def parameters(self) -> dict[str, Estimate]:
        """The law's fields with an interval for every number; without resampling none."""
        if self.resampled is None:
            return {}
        pairs = zip(self.law._fields, self.law, self.resampled, strict=True)
        return {name: Estimate(x, *percentile_interval(xs)) for name, x, xs in pairs}


def study_law(
    fit: Callable[..., Law],
    p: Float[np.ndarray, "n m"],
    loss: Float[np.ndarray, "n k"],
    *,
    weights: Float[np.ndarray, "k"],
    floor: Float[np.ndarray, "m"],
    cap: Float[np.ndarray, "m"],
    samples: int,
    seed: int,
) -> Study:
    """Fit a law, minimise its objective, and do the same on resampled runs.

    Args:
        fit: (p, loss) -> law.
        p: proportions of the runs.
        loss: what was measured.
        weights: of the objective.
        floor: smallest shares of the optimum.
        cap: largest shares.
        samples: resamplings of the runs; 0 for none.
        seed: of the resampling.
    """
    law = fit(p, loss)
    best = law.minimize(weights, floor=floor, cap=cap)
    if samples == 0:
        return Study(law, None, weights, best, best[None, :][:0])
    resampled = bootstrap_law(fit, p, loss, samples=samples, seed=seed)
    optima = _each(lambda law: optimum(law, *map(jnp.asarray, (weights, floor, cap))), resampled)
    return Study(law, resampled, weights, best, optima)


def with_objective(
    loss: Float[np.ndarray, "... k"], weights: Float[np.ndarray, "k"]
) -> Float[np.ndarray, "... k+1"]:
    """The losses with their weighted mean as one more column."""
    return np.concatenate([loss, (loss @ weights)[..., None]], axis=-1)


def _each(function: Callable[[Law], jax.Array], laws: Law) -> Float[np.ndarray, "samples ..."]:
    """The function of every law of a stack, in float64."""
    with jax.enable_x64(True):
        return np.asarray(jax.jit(jax.vmap(function))(jax.tree.map(jnp.asarray, laws)))
