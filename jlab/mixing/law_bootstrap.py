"""How sure a fitted law is: refits to resampled residuals, for parameters, losses, the optimum.

Rows of residuals are resampled whole (what one run's losses have in common stays together) and
added to the fitted losses; the mixtures stay as designed, so that every refit is determined, even
with one run more than parameters. Residuals are widened by sqrt(n / (n - d)) for the d numbers
that each loss was fitted with. Assumes errors of equal size in all runs.
Source: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, Section 9.5.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jlab.mixing.law import Law, Vector, check_weights, optimum
from jlab.mixing.law_runs import check_runs
from jlab.stats import check_bounds, resample
from jlab.stats.simplex import Bound


class LawBootstrap(NamedTuple):
    """A fitted law, and its refits as one law with a leading axis of samples in every field.

    Intervals: `percentile_interval` of the laws' fields, of `predict` or of `optima`.
    """

    law: Law
    laws: Law

    def predict(self, p: Float[np.ndarray, "... m"]) -> Float[np.ndarray, "samples ... k"]:
        """Losses that each refit predicts."""
        p = np.asarray(p, np.float64)
        each = zip(*self.laws, strict=True)
        return np.stack([type(self.law)(*fields).predict(p) for fields in each])

    def optima(
        self, weights: Vector | None = None, floor: Bound = 0.0, cap: Bound = 1.0
    ) -> Float[np.ndarray, "samples m"]:
        """Optimal proportions of each refit; arguments as in `law.minimize`."""
        k, m = self.law.matrix.shape
        low, high = check_bounds(floor, cap, m)
        with jax.enable_x64(True):
            laws = jax.tree.map(jnp.asarray, self.laws)
            return np.asarray(_optima(laws, check_weights(weights, k), low, high))


def bootstrap_law(
    fit: Callable[[np.ndarray, np.ndarray], Law],
    p: Float[np.ndarray, "n m"],
    loss: Float[np.ndarray, "n k"],
    *,
    samples: int = 200,
    seed: int = 0,
) -> LawBootstrap:
    """Fit a law and refit it `samples` times; all refits are one call of `fit`.

    Args:
        fit: (p, losses[..., n, k]) -> law, such as `fit_linear_law` or
            `functools.partial(fit_log_linear_law, huber=0.02)`.
        p: proportions of the runs.
        loss: what was measured.
        samples: how many refits; 200 are enough for 90 % intervals, take 1000 for 95 %.
        seed: of the resampling.

    Raises:
        ValueError: what `fit` refuses, or no more runs than parameters per loss: such a law has
            no residuals.
    """
    p, loss = check_runs(p, loss)
    law = fit(p, loss)
    n, d = len(p), law.parameters_per_loss
    if n <= d:
        raise ValueError(
            f"a bootstrap of this law needs at least {d + 1} runs, one more than the {d} "
            f"parameters of each loss; got {n}"
        )
    predicted = law.predict(p)
    residual = loss - predicted
    residual = (residual - residual.mean(0)[None, :]) * np.sqrt(n / (n - d))
    rows = resample(n, samples=samples, seed=seed)
    return LawBootstrap(law, fit(p, predicted[None, :, :] + residual[rows]))


@jax.jit
def _optima(
    laws: Law, weights: Float[Array, "k"], floor: Float[Array, "m"], cap: Float[Array, "m"]
) -> Float[Array, "samples m"]:
    return jax.vmap(optimum, in_axes=(0, None, None, None))(laws, weights, floor, cap)
