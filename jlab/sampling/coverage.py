"""Coverage: the share of problems that at least one of k samples solves, estimated without bias.

Of n samples of a problem c are correct. The chance that k of them, drawn without replacement, are
all wrong is binom(n - c, k) / binom(n, k); pass@k is 1 minus that, coverage its mean over problems.
Both k and c are far too large here for binomials, and differences of log-gammas lose 3 to 9 digits
(all of them in float32). Written with m! = sqrt(2 pi m) (m / e)^m exp(delta(m)), the large terms of
the quotient cancel by hand, and what is left has about the precision of the result itself, for any
n in a fixed number of operations. With d = n - c - k:

    log binom(n - c, k) / binom(n, k) = c log(1 - k/n) + k log(1 - c/n)
        + (d + 1/2) log(1 + c k / (n d)) + delta(n - c) - delta(n) + delta(n - k) - delta(d)

Source: Brown et al., "Large Language Monkeys", arXiv 2407.21787, Equation 1; the estimator is that
of Chen et al., arXiv 2107.03374, Section 2.1; the rewriting is derived, after Loader, "Fast and
accurate computation of binomial probabilities", 2000. Symbols: N -> n, C_i -> c, as there.
"""

import math
from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jlab.stats import bootstrap, percentile_interval

Counts = int | Int[np.ndarray, "..."] | Int[Array, "..."]
Floats = Float[np.ndarray, "..."] | Float[Array, "..."]

# delta(m) = log m! - log(sqrt(2 pi m) (m / e)^m) for m = 1 ... 15, to 17 digits. delta(0) is
# infinite and never used: 0 stands in for it. From 16 on five terms of Stirling's series do.
STIRLING_ERROR = (
    0.0,
    0.081061466795327258,
    0.041340695955409294,
    0.027677925684998339,
    0.020790672103765093,
    0.016644691189821193,
    0.013876128823070748,
    0.011896709945891770,
    0.010411265261972096,
    0.0092554621827127329,
    0.0083305634333628708,
    0.0075736754879518412,
    0.0069428401072095287,
    0.0064089941880042070,
    0.0059513701127588475,
    0.0055547335519628014,
)


def pass_at_k(n: Counts, c: Counts, k: Counts) -> Floats:
    """Unbiased chance that k of n samples, c of them correct, hold a correct one.

    Exactly 0 for c = 0 and exactly 1 for n - c < k. Host numbers give float64; if one argument is
    a jax array the result is one, in the arguments' float type (the default one for integers), and
    the function works under jit, vmap and shard_map. Error at most 3e-16 in float64 and 2e-7 in
    float32, where n must stay below 2^24.

    Args:
        n: samples of a problem.
        c: correct ones among them.
        k: budget; n, c and k broadcast.

    Raises:
        ValueError: on the host, n < 1, c outside [0, n] or k outside [1, n]; under jit, where
            values cannot be looked at, such entries are NaN.

    Example:
        >>> pass_at_k(10, 3, np.array([1, 5, 8])).round(4)
        array([0.3   , 0.9167, 1.    ])
    """
    if any(isinstance(count, jax.Array) for count in (n, c, k)):
        counts = [jnp.asarray(count) for count in (n, c, k)]
        floats = [x.dtype for x in counts if jnp.issubdtype(x.dtype, jnp.floating)]
        dtype = jnp.result_type(jnp.float32, *floats) if floats else jnp.result_type(float)
        return _pass_at_k_jax(*jnp.broadcast_arrays(*(x.astype(dtype) for x in counts)))
    _check_counts(n, c, k)
    counts = np.broadcast_arrays(*(np.asarray(count, np.float64) for count in (n, c, k)))
    return _pass_at_k(np, *counts)[()]


def coverage_curve(
    n: Counts, c: Int[np.ndarray, "problems"], ks: Int[np.ndarray, "k"]
) -> Float[np.ndarray, "k"]:
    """Mean of pass@k over problems, for every budget.

    Args:
        n: samples per problem, one number or one per problem.
        c: correct samples of each problem.
        ks: budgets, none above the smallest n.

    Example:
        >>> coverage_curve(100, np.array([0, 1, 50]), np.array([1, 10, 100])).round(4)
        array([0.17  , 0.3665, 0.6667])
    """
    return problem_curves(n, c, ks).mean(0)


def problem_curves(
    n: Counts, c: Int[np.ndarray, "problems"], ks: Int[np.ndarray, "k"]
) -> Float[np.ndarray, "problems k"]:
    """pass@k of every problem at every budget; arguments as in `coverage_curve`.

    Raises:
        ValueError: other shapes, or what `pass_at_k` refuses.
    """
    xp = jnp if any(isinstance(count, jax.Array) for count in (n, c, ks)) else np
    n, c, ks = (xp.asarray(count) for count in (n, c, ks))
    if c.ndim != 1 or c.size == 0 or ks.ndim != 1 or n.shape not in {(), c.shape}:
        raise ValueError(
            "c must be [problems], ks [k] and n one number or [problems]; "
            f"got shapes {c.shape}, {ks.shape} and {n.shape}"
        )
    return pass_at_k(xp.broadcast_to(n, c.shape)[:, None], c[:, None], ks[None, :])


def coverage_interval(
    n: Counts,
    c: Int[np.ndarray, "problems"],
    ks: Int[np.ndarray, "k"],
    *,
    level: float = 0.95,
    samples: int = 1000,
    seed: int = 0,
) -> tuple[Float[np.ndarray, "k"], Float[np.ndarray, "k"]]:
    """Lower and upper end of a bootstrap interval of the coverage curve, point by point.

    Problems are resampled: with a hundred of them their choice moves the curve far more than the
    luck of thousands of samples does.

    Args:
        n: samples per problem, one number or one per problem.
        c: correct samples of each problem.
        ks: budgets.
        level: share of the resampled curves inside.
        samples: how many resampled curves.
        seed: of the resampling.

    NaN where resampling cannot tell: one problem, or all of them at the same constant, as where
    nothing is solved.

    Example:
        >>> low, high = coverage_interval(10, np.array([0, 1, 5, 10]), np.array([1, 10]))
        >>> low.round(2), high.round(2)
        (array([0.05, 0.25]), array([0.78, 1.  ]))
    """
    curves = np.asarray(problem_curves(n, c, ks))
    return mean_interval(curves, level=level, samples=samples, seed=seed)


def mean_interval(
    curves: Float[np.ndarray, "problems k"],
    *,
    level: float = 0.95,
    samples: int = 1000,
    seed: int = 0,
) -> tuple[Float[np.ndarray, "k"], Float[np.ndarray, "k"]]:
    """`coverage_interval` where each problem's chance of being solved is known."""
    if len(curves) < 2 or np.ptp(curves) == 0:
        return np.full(curves.shape[1], np.nan), np.full(curves.shape[1], np.nan)
    means = bootstrap(lambda rows: rows.mean(0), curves, samples=samples, seed=seed)
    return percentile_interval(means, level=level)


def k_grid(n: int, points: int = 40) -> Int[np.ndarray, "k"]:
    """Budgets from 1 to n at even distances of log k, rounded, each once.

    40 points are the grid that laws are fitted on, 100 the one that their error is taken on.
    Source: arXiv 2407.21787, Section 3.1 (whose grid "from 0" begins at 10^0).

    Raises:
        ValueError: n or points below 1.

    Example:
        >>> k_grid(100, points=6)
        array([  1,   3,   6,  16,  40, 100])
    """
    for name, value in (("n", n), ("points", points)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1; got {value}")
    return np.unique(np.round(np.geomspace(1, n, points)).astype(np.int64))


@jax.jit
def _pass_at_k_jax(
    n: Float[Array, "..."], c: Float[Array, "..."], k: Float[Array, "..."]
) -> Float[Array, "..."]:
    valid = (n >= 1) & (c >= 0) & (c <= n) & (k >= 1) & (k <= n)
    return jnp.where(valid, _pass_at_k(jnp, n, c, k), jnp.nan)


def _pass_at_k(xp: ModuleType, n: Floats, c: Floats, k: Floats) -> Floats:
    """The formula above for floats of one shape; xp is numpy or jax.numpy."""
    certain = n - c < k
    # Certain and hopeless entries go through the formula as c = k = 0, which it makes exactly 0.
    trivial = certain | (c == 0)
    c, k = (xp.where(trivial, 0, count) for count in (c, k))
    d = n - c - k
    excess = c * k / n  # (n - c) (n - k) / n - d
    last = d == 0  # delta(0) and log(1 + excess / 0) cancel: their sum has a limit
    rest = xp.where(last, 1, d)
    middle = xp.where(
        last,
        0.5 * xp.log(2 * math.pi * xp.where(last, excess, 1)),
        (rest + 0.5) * xp.log1p(excess / rest),
    )
    near = _stirling_error(xp, n - c) - _stirling_error(xp, n)
    far = _stirling_error(xp, n - k) - _stirling_error(xp, d)
    log_all_wrong = c * xp.log1p(-k / n) + k * xp.log1p(-c / n) + middle + (near + far)
    return xp.where(certain, 1, -xp.expm1(log_all_wrong))


def _stirling_error(xp: ModuleType, m: Floats) -> Floats:
    table = xp.asarray(STIRLING_ERROR, m.dtype)
    y = 1 / xp.maximum(m, 16)
    z = y * y
    series = y * (1 / 12 - z * (1 / 360 - z * (1 / 1260 - z * (1 / 1680 - z / 1188))))
    return xp.where(m < 16, table[xp.clip(m, 0, 15).astype(int)], series)


def _check_counts(n: Counts, c: Counts, k: Counts) -> None:
    n, c, k = (np.asarray(count) for count in (n, c, k))
    checks = (
        ("n", n, n >= 1, "at least 1"),
        ("c", c, (c >= 0) & (c <= n), "in [0, n]"),
        ("k", k, (k >= 1) & (k <= n), "in [1, n]"),
    )
    for name, value, allowed, words in checks:
        if not np.all(value == np.floor(value)):
            words, allowed = "whole numbers", value == np.floor(value)
        if not np.all(allowed):
            wrong = np.broadcast_to(value, allowed.shape)[~allowed][0]
            raise ValueError(f"{name} must be {words}; got {wrong}")
