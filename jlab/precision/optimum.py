"""How to spend a compute budget on parameters, tokens and bits: what the law is smallest at.

Training costs C = COST N D P where weights, activations and KV cache have P bits each: 6 N D at
16 bits. The paper's own formulas for a given P contain slips; those here are derived anew and
agree with a search. Written u = f(P)^-alpha and c = C / COST, with f the product of all parts:
    N = (u A alpha / (B P^beta beta))^(1/(alpha+beta)) c^(beta/(alpha+beta)),  D = c / (N P).
With both free, P is where f(P)/P is largest, whatever the budget.
On the host, in float64; parameters may be arrays (all of one shape, such as a bootstrap's).
Source: Kumar, Ankner et al., arXiv 2411.04330, Sections 4.2, 4.3 and Appendix (corrected).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from jlab.precision.arrays import together
from jlab.precision.law import PARTS, Params, fraction
from jlab.precision.published import PUBLISHED
from jlab.precision.roots import last_fall

Values = float | Float[np.ndarray, "..."]

COST = 6 / 16  # of a parameter, a token and a bit: the paper's C = (6/16) N D P
NEAR = 1e-6  # bits above those at which f is 0


class Allocation(NamedTuple):
    """A run that a budget pays for; all fields broadcast."""

    N: Values  # parameters
    D: Values  # tokens
    P: Values  # bits of weights, activations and KV cache in training


def joint_fraction(
    P: Values, *, params: Params = PUBLISHED, bias: bool = True, parts: Sequence[str] = PARTS
) -> Values:
    """f(P), the product over the parts where all have P bits; NaN below what can be trained."""
    product = 1.0
    for part in parts:
        n = params[f"n_{part}"] if bias else 0.0
        _, (product, f) = together(product, fraction(P, params[f"gamma_{part}"], n))
        product = product * f
    return product


def optimal_precision(
    *, params: Params = PUBLISHED, bias: bool = True, parts: Sequence[str] = PARTS
) -> Values:
    """P* where N, D and P are chosen together: the bits at which f(P)/P is largest.

    It solves sum_x (P/gamma_x) / (exp(P/gamma_x - n_x) - 1) = 1 and does not depend on the
    budget. NaN where there is no such P: the law then gains from ever fewer bits.

    Args:
        params: gamma_x, and n_x with `bias`.
        bias: with the offsets of Appendix K.
        parts: that are trained in P bits, and whose bits are paid for.

    Example:
        >>> round(float(optimal_precision()), 3), round(float(optimal_precision(bias=False)), 3)
        (7.002, 3.469)

    Source: Section 4.3.2, with the offsets.
    """
    gamma, n = _of_parts(params, bias, parts)

    def gain(P):  # d log f / d log P - 1: falls through 0 at the largest f(P)/P
        return _elasticity(P, gamma, n) - 1

    return last_fall(gain, _least_bits(gamma, n))


def optimal_precision_fixed_params(
    C: Values,
    N: Values,
    *,
    params: Params = PUBLISHED,
    bias: bool = True,
    parts: Sequence[str] = PARTS,
    cost: float = COST,
) -> Values:
    """P* of a model of N parameters: the bits at which training for a budget C ends lowest.

    It grows about as log C: the more tokens there are per parameter, the more a parameter is
    worth.

    Args:
        C: budget, in the unit of `cost`.
        N: parameters.
        params: the Chinchilla part, gamma_x, and n_x with `bias`.
        bias: with the offsets of Appendix K.
        parts: that are trained in P bits.
        cost: C / (N D P).

    Example:
        >>> optimal_precision_fixed_params(np.array([1e20, 1e23]), 8e9).round(2)
        array([ 4.81, 11.26])

    Source: Section 4.3.3.
    """
    constants = (params[name] for name in ("A", "alpha", "B", "beta"))
    _, (C, N, A, alpha, B, beta) = together(C, N, *constants)
    gamma, n = _of_parts(params, bias, parts, C.shape)

    def gain(P):  # log of what another bit gains through f, over what it costs in tokens
        f = joint_fraction(P, params=params, bias=bias, parts=parts)
        D = C / (cost * N * P)
        with np.errstate(divide="ignore"):  # nothing is gained any more: -inf
            gained = np.log(alpha * A * (N * f) ** -alpha * _elasticity(P, gamma, n))
        return gained - np.log(beta * B * D**-beta)

    return last_fall(gain, _least_bits(gamma, n))


def optimal_size(
    C: Values,
    P: Values,
    *,
    params: Params = PUBLISHED,
    bias: bool = True,
    parts: Sequence[str] = PARTS,
    cost: float = COST,
) -> Allocation:
    """N* and D* of a budget at a given precision; P = 16 with `parts=()` is Chinchilla's.

    Args:
        C: budget, in the unit of `cost`.
        P: bits.
        params: the Chinchilla part, gamma_x, and n_x with `bias`.
        bias: with the offsets of Appendix K.
        parts: that are trained in P bits.
        cost: C / (N D P).

    Example:
        >>> N, D, _ = optimal_size(1e21, 8.0)
        >>> f"{N:.2e} {D:.2e}"
        '4.73e+09 7.05e+10'

    Source: derived; Section 4.3.1 and Appendix E of the paper, corrected.
    """
    f = joint_fraction(P, params=params, bias=bias, parts=parts)
    names = ("A", "alpha", "B", "beta")
    _, (C, P, f, A, alpha, B, beta) = together(C, P, f, *(params[name] for name in names))
    c = C / cost
    ratio = f**-alpha * A * alpha / (B * P**beta * beta)
    N = ratio ** (1 / (alpha + beta)) * c ** (beta / (alpha + beta))
    return Allocation(N[()], (c / (N * P))[()], P[()])


def compute_optimal(
    C: Values,
    *,
    params: Params = PUBLISHED,
    bias: bool = True,
    parts: Sequence[str] = PARTS,
    cost: float = COST,
) -> Allocation:
    """N, D and P of a budget, all free: `optimal_precision`, then `optimal_size`.

    Args:
        C: budget, in the unit of `cost`.
        params: the Chinchilla part, gamma_x, and n_x with `bias`.
        bias: with the offsets of Appendix K.
        parts: that are trained in P bits.
        cost: C / (N D P).

    Source: Section 4.3.2.
    """
    P = optimal_precision(params=params, bias=bias, parts=parts)
    return optimal_size(C, P, params=params, bias=bias, parts=parts, cost=cost)


def tokens_of_loss(loss: Values, N_eff: Values, *, params: Params = PUBLISHED) -> Values:
    """D at which N_eff parameters reach a loss, for iso-loss curves; NaN where they never do.

    Args:
        loss: nats per token.
        N_eff: effective parameters.
        params: the Chinchilla part.

    Source: Section 2.2, solved for D.
    """
    names = ("A", "alpha", "B", "beta", "E")
    _, (loss, N, A, alpha, B, beta, E) = together(loss, N_eff, *(params[k] for k in names))
    left = loss - E - A * N**-alpha
    return np.where(left > 0, (B / np.where(left > 0, left, 1)) ** (1 / beta), np.nan)[()]


def _of_parts(
    params: Params, bias: bool, parts: Sequence[str], shape: tuple[int, ...] = ()
) -> tuple[Float[np.ndarray, "parts ..."], Float[np.ndarray, "parts ..."]]:
    """gamma and n of the parts, broadcast to the shape of what is asked."""
    if not parts or not set(parts) <= set(PARTS):
        raise ValueError(f"parts must be one or more of {', '.join(PARTS)}; got {list(parts)}")
    gamma = [params[f"gamma_{part}"] for part in parts]
    n = [params[f"n_{part}"] if bias else 0.0 for part in parts]
    _, (_, *both) = together(np.zeros(shape), *gamma, *n)
    return np.stack(both[: len(parts)]), np.stack(both[len(parts) :])


def _least_bits(gamma: np.ndarray, n: np.ndarray) -> np.ndarray:
    """Just above the bits that every part needs: f > 0."""
    return np.maximum(gamma * n, 0).max(0) * (1 + NEAR) + NEAR


def _elasticity(P: np.ndarray, gamma: np.ndarray, n: np.ndarray) -> np.ndarray:
    """d log f / d log P = sum over parts of (P/gamma) / (exp(P/gamma - n) - 1)."""
    scaled = P / np.expand_dims(gamma, 1)
    with np.errstate(over="ignore"):  # exp(inf): the part is as good as unquantised
        return (scaled / np.expm1(scaled - np.expand_dims(n, 1))).sum(0)
