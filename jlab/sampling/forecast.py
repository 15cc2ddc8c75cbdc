"""Coverage at budgets far beyond what was sampled, from how success rates are distributed.

A problem that one sample solves with probability p stays unsolved with (1 - p)^k, so that the mean
over problems falls like a power of k exactly if the density of p near 0 is a power of p. With
p ~ Beta(alpha, beta):

    coverage(k) = 1 - B(alpha, beta + k) / B(alpha, beta)
                ~ 1 - Gamma(alpha + beta) / Gamma(beta) k^-alpha

alpha and beta maximise the likelihood of the counts, c ~ BetaBinomial(n, alpha, beta).
Source: Schaeffer et al., "How Do Large Language Monkeys Get Their Power (Laws)?",
arXiv 2502.17578, Section 5 (there with a scale on p, which is 1 here).
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from jlab.sampling.coverage import Counts

LIMITS = (1e-4, 1e6)  # of alpha and beta: counts cannot tell a Beta beyond from one at the limit
STARTS = (0.1, 0.3, 1.0)  # of alpha, with the beta that gives the mean of the counts


class BetaLaw(NamedTuple):
    """Distribution of the success rate of one sample over problems."""

    alpha: float  # exponent with which failure dies out: 1 - coverage(k) ~ k^-alpha
    beta: float

    def predict(self, k: Float[np.ndarray, "*k"]) -> Float[np.ndarray, "*k"]:
        """Expected coverage with k samples of a new problem."""
        from scipy.special import betaln

        k = np.asarray(k, np.float64)
        return -np.expm1(betaln(self.alpha, self.beta + k) - betaln(self.alpha, self.beta))


def fit_beta(n: Counts, c: Int[np.ndarray, "problems"]) -> BetaLaw:
    """The Beta distribution of success rates under which the counts are likeliest.

    Args:
        n: samples per problem, one number or one per problem.
        c: correct samples of each problem.

    Raises:
        ValueError: other shapes, c outside [0, n], all samples wrong or all right.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> c = rng.binomial(200, rng.beta(0.4, 4, 5000))
        >>> law = fit_beta(200, c)
        >>> round(law.alpha, 1), round(law.beta)
        (0.4, 4)
    """
    from scipy.optimize import minimize

    c = np.asarray(c, np.float64)
    n = np.broadcast_to(np.asarray(n, np.float64), c.shape)
    if c.ndim != 1 or not np.all((c >= 0) & (c <= n)):
        raise ValueError(f"c must be [problems] and in [0, n]; got shape {c.shape}")
    if c.sum() in {0, n.sum()}:
        raise ValueError(
            "c must hold both right and wrong samples: "
            f"got {c.sum():.0f} right ones of {n.sum():.0f}"
        )
    rate = c.sum() / n.sum()
    bounds = [tuple(np.log(LIMITS))] * 2
    fits = [
        minimize(
            _minus_log_likelihood,
            np.log([alpha, alpha * (1 - rate) / rate]).clip(*bounds[0]),
            args=(n, c),
            jac=True,
            bounds=bounds,
            method="L-BFGS-B",
        )
        for alpha in STARTS
    ]
    best = min(fits, key=lambda fit: fit.fun)
    return BetaLaw(*(float(x) for x in np.exp(best.x)))


def _minus_log_likelihood(
    logs: Float[np.ndarray, "2"],
    n: Float[np.ndarray, "problems"],
    c: Float[np.ndarray, "problems"],
) -> tuple[float, Float[np.ndarray, "2"]]:
    """Of the counts, but for binomial coefficients; with its slope in (log alpha, log beta)."""
    from scipy.special import betaln, digamma

    alpha, beta = np.exp(logs)
    value = betaln(alpha + c, beta + n - c) - betaln(alpha, beta)
    total = digamma(alpha + beta + n) - digamma(alpha + beta)
    slope = [
        alpha * (digamma(alpha + c) - digamma(alpha) - total),
        beta * (digamma(beta + n - c) - digamma(beta) - total),
    ]
    return -value.sum(), -np.sum(slope, axis=1)
