"""The paper's formulas: what a number of bits is worth, in parameters and after training.

A part x of the model (its weights w, activations a, KV cache kv) that is trained in P_x bits acts
as if only the fraction f_x = 1 - exp(-P_x/gamma_x + n_x) of the parameters were there; quantising
the trained weights to Ppost bits raises the loss by an amount that grows with the tokens it was
trained on. P = inf means that a part is not quantised. The offsets n_x and b stand in the fits of
Appendix K, not in the main text, and no sign is printed; with + they agree with all that the paper
claims (a joint optimum of 7 to 8 bits, divergence below 4 bits of activations).
Symbols: N -> non-embedding parameters, D -> tokens, f -> `fraction`, N_eff ->
`effective_parameters`, delta_PTQ -> `ptq_degradation`; the others are keys of `Params`.
Source: Kumar, Ankner et al., "Scaling Laws for Precision", ICLR 2025 (arXiv 2411.04330).
"""

from collections.abc import Mapping

import numpy as np

from jlab.precision.arrays import Number, together
from jlab.precision.published import PUBLISHED

Params = Mapping[str, Number]
PARTS = ("w", "a", "kv")  # weights, activations, KV cache
FLOOR = 1e-6  # least f in a fit: with less the loss of a hopeless start is no number


def fraction(P: Number, gamma: Number, n: Number = 0.0, *, floor: float | None = None) -> Number:
    """f(P) = 1 - exp(-P/gamma + n): the share of the parameters that P bits leave; 1 at P = inf.

    Args:
        P: bits.
        gamma: bits per factor e.
        n: offset.
        floor: smallest value, for fits; None gives NaN where f <= 0: such training diverges.

    Source: Equation 3, with the offset of Appendix K.
    """
    xp, (P, gamma, n) = together(P, gamma, n)
    off = xp.isinf(P)
    # A finite P within: the derivative of the branch that is not taken would be 0 * inf.
    f = xp.where(off, 1.0, 1 - xp.exp(-xp.where(off, 1.0, P) / gamma + n))
    return xp.where(f > 0, f, xp.nan)[()] if floor is None else xp.maximum(f, floor)[()]


def effective_parameters(
    N: Number,
    Pw: Number = np.inf,
    Pa: Number = np.inf,
    Pkv: Number = np.inf,
    *,
    params: Params = PUBLISHED,
    bias: bool = True,
    floor: float | None = None,
) -> Number:
    """N_eff = N f_w(Pw) f_a(Pa) f_kv(Pkv); NaN where a part has too few bits to be trained.

    Args:
        N: parameters; broadcasts with the bits.
        Pw: bits of the weights.
        Pa: bits of the activations.
        Pkv: bits of the KV cache.
        params: gamma_x, and n_x with `bias`, of the parts.
        bias: with the offsets n_x of Appendix K; False for the main text's formula.
        floor: as in `fraction`.

    Example:
        >>> round(float(effective_parameters(1.0, 4, 4, 4)), 3)  # 4 bits cost four of five
        0.191

    Source: Equation 4.
    """
    _, (N, *bits) = together(N, Pw, Pa, Pkv)
    for part, P in zip(PARTS, bits, strict=True):
        n = params[f"n_{part}"] if bias else 0.0
        _, (N, f) = together(N, fraction(P, params[f"gamma_{part}"], n, floor=floor))
        N = N * f
    return N


def empirical_effective_parameters(
    N: Number, loss: Number, full_loss: Number, *, params: Params = PUBLISHED
) -> Number:
    """N_eff that a measured loss betrays: [(L(P) - L(inf))/A + N^-alpha]^(-1/alpha).

    Args:
        N: parameters.
        loss: of the run at low precision.
        full_loss: of the same run without quantisation.
        params: A and alpha.

    Source: Equation 30 (there divided by N: the fraction f).
    """
    _, (N, loss, full, A, alpha) = together(N, loss, full_loss, params["A"], params["alpha"])
    return (((loss - full) / A + N**-alpha) ** (-1 / alpha))[()]


def chinchilla(N: Number, D: Number, *, params: Params = PUBLISHED) -> Number:
    """L = A N^-alpha + B D^-beta + E, nats per token. Source: Section 2.2."""
    _, (N, D, A, alpha, B, beta, E) = together(
        N, D, *(params[name] for name in ("A", "alpha", "B", "beta", "E"))
    )
    return (A * N**-alpha + B * D**-beta + E)[()]


def ptq_degradation(
    N: Number, D: Number, Ppost: Number, *, params: Params = PUBLISHED, bias: bool = True
) -> Number:
    """delta_PTQ = C_T D^gamma_D / N^gamma_N exp(-Ppost/gamma_post + b), nats; 0 at Ppost = inf.

    Args:
        N: parameters, or the effective ones (Equation 9).
        D: tokens.
        Ppost: bits of the weights after training.
        params: C_T, gamma_D, gamma_N, gamma_post, and b with `bias`.
        bias: with the offset b of Appendix K.

    Example:
        >>> round(float(ptq_degradation(30e6, 26e9, 3)), 3)
        0.586

    Source: Equation 2.
    """
    xp, (N, D, P, C_T, gamma_D, gamma_N, gamma, b) = together(
        N, D, Ppost, *_ptq_constants(params, bias)
    )
    off = xp.isinf(P)
    height = xp.where(off, 0.0, xp.exp(-xp.where(off, 1.0, P) / gamma + b))
    return (C_T * D**gamma_D / N**gamma_N * height)[()]


def robustification(
    Ppost: Number, Pw: Number, Pa: Number, Pkv: Number, *, params: Params
) -> Number:
    """prod_x [1 - exp(-C_x (P_x - Ppost))]: what low-precision training leaves of delta_PTQ.

    A part that was not quantised has the factor 1; one that was trained in no more than Ppost
    bits has 0.

    Source: Equations 8 and 9.
    """
    left = 1.0
    for part, P in zip(PARTS, (Pw, Pa, Pkv), strict=True):
        xp, (left, post, P, C) = together(left, Ppost, P, params[f"C_{part}"])
        off = xp.isinf(P) | xp.isinf(post)
        gap = xp.maximum(xp.where(off, 1.0, P) - xp.where(off, 0.0, post), 0.0)
        # Unknown C_x (NaN) do not matter where the gap is closed.
        kept = xp.where(gap > 0, 1 - xp.exp(-C * gap), 0.0)
        left = left * xp.where(off, 1.0, kept)
    return left[()]


def critical_tokens(
    N: Number, Ppost: Number, *, params: Params = PUBLISHED, bias: bool = True
) -> Number:
    """D_crit: tokens beyond which more training raises the loss after quantisation to Ppost bits.

    (beta B N^gamma_N exp(Ppost/gamma_post - b) / (gamma_D C_T))^(1/(gamma_D + beta)), for a model
    that was trained without quantisation.

    Example:
        >>> f"{critical_tokens(30e6, 3):.1e}"
        '5.3e+09'

    Source: Equation 13.
    """
    xp, (N, P, C_T, gamma_D, gamma_N, gamma, b, B, beta) = together(
        N, Ppost, *_ptq_constants(params, bias), params["B"], params["beta"]
    )
    # In logarithms: exp(Ppost/gamma) passes what a float32 holds at 52 bits.
    height = xp.log(beta * B / (gamma_D * C_T)) + gamma_N * xp.log(N) + P / gamma - b
    return xp.exp(height / (gamma_D + beta))[()]


def _ptq_constants(params: Params, bias: bool) -> list[Number]:
    names = ("C_T", "gamma_D", "gamma_N", "gamma_post")
    return [*(params[name] for name in names), params["b"] if bias else 0.0]
