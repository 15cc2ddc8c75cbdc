"""The scaling law of coverage: c(k) is close to exp(a k^b), an exponentiated power law.

a < 0 sets the coverage of one sample, exp(a); b < 0 says how fast more samples help. Fitted by
least squares on c itself, not on log c, at about 40 budgets evenly spaced in log k.
Source: Brown et al., "Large Language Monkeys", arXiv 2407.21787, Section 3.1 and Appendix C.1.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jlab.sampling.coverage import Counts, k_grid, problem_curves
from jlab.stats import multistart_fit, resample

SLOPES = (-0.1, -0.3, -0.6, -1.0)  # b of the starts; released curves have -0.1 to -1
NEAREST = 1e-12  # that a coverage comes to 0 or 1 where its logarithm is taken


class CoverageLaw(NamedTuple):
    """c(k) = exp(a k^b); with an axis of samples in both fields, as many laws."""

    a: Float[np.ndarray, "*samples"]
    b: Float[np.ndarray, "*samples"]

    def predict(self, k: Float[np.ndarray, "*k"]) -> Float[np.ndarray, "..."]:
        """Coverage at k samples per problem."""
        k = np.asarray(k, np.float64)
        a, b = (np.reshape(p, np.shape(p) + (1,) * k.ndim) for p in self)
        return np.exp(a * k**b)

    def k_at(self, coverage: Float[np.ndarray, "*c"]) -> Float[np.ndarray, "..."]:
        """Samples per problem at which a coverage is reached: (log c / a)^(1 / b).

        Of many laws those that do not grow, with b >= 0 or a >= 0, never reach it: inf.

        Raises:
            ValueError: a coverage outside (0, 1), or a single law that does not grow.
        """
        coverage = np.asarray(coverage, np.float64)
        if not np.all((coverage > 0) & (coverage < 1)):
            raise ValueError(f"coverage must lie in (0, 1); got {coverage.tolist()}")
        grows = (np.asarray(self.a) < 0) & (np.asarray(self.b) < 0)
        if not grows.ndim and not grows:
            raise ValueError(
                f"a and b must be negative for a growing curve; got {self.a}, {self.b}"
            )
        a, b, grows = (np.reshape(p, np.shape(p) + (1,) * coverage.ndim) for p in (*self, grows))
        with np.errstate(over="ignore"):  # a slope of almost 0 needs more than a float holds
            k = (np.log(coverage) / np.where(grows, a, -1)) ** (1 / np.where(grows, b, -1))
        return np.where(grows, k, np.inf)[()]


class LawError(NamedTuple):
    """Distance of a law from a curve: mean, population standard deviation and largest |fit - c|."""

    mean: float
    std: float
    worst: float


def fit_coverage_law(k: Int[np.ndarray, "k"], c: Float[np.ndarray, "k"]) -> CoverageLaw:
    """The a and b that minimise sum (exp(a k^b) - c)^2.

    Fitted as a = -exp(s), from several starts: SciPy's `curve_fit` at its default start (1, 1)
    overflows and hands (1, 1) back without an error.

    Args:
        k: budgets, for instance `k_grid(n)`.
        c: coverage at each.

    Raises:
        ValueError: other shapes, fewer than two budgets, k < 1, c outside [0, 1] or all 0.

    Example:
        >>> k = np.array([1, 3, 10, 30, 100])
        >>> a, b = fit_coverage_law(k, np.exp(-2.5 * k**-0.4))
        >>> round(float(a), 6), round(float(b), 6)
        (-2.5, -0.4)
    """
    k, c = np.asarray(k, np.float64), np.asarray(c, np.float64)
    if k.ndim != 1 or k.shape != c.shape or len(np.unique(k)) < 2:
        raise ValueError(
            "k and c must be equally long and hold at least two different k; "
            f"got shapes {k.shape} and {c.shape}"
        )
    if not np.all(k >= 1):
        raise ValueError(f"k must be at least 1; got {k.min()}")
    if not np.all((c >= 0) & (c <= 1)):
        raise ValueError(f"c must lie in [0, 1]; got {c.min()} to {c.max()}")
    if not np.any(c > 0):
        raise ValueError("c must rise above 0 for a law; got 0 for every k: nothing was solved")
    return CoverageLaw(*(law[0] for law in _fit(k, c[None, :])))


def law_error(law: CoverageLaw, k: Int[np.ndarray, "k"], c: Float[np.ndarray, "k"]) -> LawError:
    """How far a law lies from a coverage curve; the paper takes k = `k_grid(n, points=100)`.

    Source: arXiv 2407.21787, Appendix C.1.
    """
    gap = np.abs(law.predict(k) - np.asarray(c, np.float64))
    return LawError(float(gap.mean()), float(gap.std()), float(gap.max()))


def bootstrap_coverage_law(
    n: Counts,
    c: Int[np.ndarray, "problems"],
    ks: Int[np.ndarray, "k"] | None = None,
    *,
    samples: int = 200,
    seed: int = 0,
) -> CoverageLaw:
    """Laws of resampled problems: the spread of a, of b and of what they predict.

    Intervals: `percentile_interval` of the fields, of `predict` or of `k_at`.

    Args:
        n: samples per problem, one number or one per problem.
        c: correct samples of each problem.
        ks: budgets to fit on; `k_grid` of the smallest n if None.
        samples: how many laws; 200 are enough for 90 % intervals, take 1000 for 95 %.
        seed: of the resampling.

    Raises:
        ValueError: no correct sample at all, or one problem, which cannot be resampled.
    """
    if len(c) < 2:
        raise ValueError(f"c must hold at least 2 problems to resample; got {len(c)}")
    if not np.any(c):
        raise ValueError("c must hold a correct sample; got 0 for every problem")
    ks = k_grid(int(np.min(n))) if ks is None else np.asarray(ks)
    return resampled_laws(ks, np.asarray(problem_curves(n, c, ks)), samples=samples, seed=seed)


def resampled_laws(
    ks: Int[np.ndarray, "k"],
    solved: Float[np.ndarray, "problems k"],
    *,
    samples: int = 200,
    seed: int = 0,
) -> CoverageLaw:
    """`bootstrap_coverage_law` where each problem's chance of being solved is known.

    Args:
        ks: budgets.
        solved: of every problem at each of them.
        samples: how many laws.
        seed: of the resampling.
    """
    rows = resample(len(solved), samples=samples, seed=seed)
    return _fit(np.asarray(ks, np.float64), solved[rows].mean(1))


def _fit(k: Float[np.ndarray, "k"], c: Float[np.ndarray, "laws k"]) -> CoverageLaw:
    """One law per row of c, all in one call."""
    log_k = np.log(k)
    height = np.log(-np.log(np.clip(c, NEAREST, 1 - NEAREST)))  # s + b log k on the law
    starts = [np.stack([height[:, 0] - b * log_k[0], np.full(len(c), b)], 1) for b in SLOPES]
    spread = log_k - log_k.mean()
    slope = height @ spread / (spread @ spread)
    starts.append(np.stack([height.mean(1) - slope * log_k.mean(), slope], 1))
    found = multistart_fit(_residuals, np.stack(starts, 1), log_k, c, data_axes=(None, 0))
    return CoverageLaw(-np.exp(found.params[:, 0]), found.params[:, 1])


def _residuals(
    params: Float[Array, "2"], log_k: Float[Array, "k"], c: Float[Array, "k"]
) -> Float[Array, "k"]:
    s, b = params
    return jnp.exp(-jnp.exp(s + b * log_k)) - c
