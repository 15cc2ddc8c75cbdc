"""The law of Sun et al. for training in floating point: exponent and mantissa bits count apart.

Both the form and its constants come from a secondary source and were not compared with the paper:
do so before quoting numbers. Symbols: E -> exponent, M -> mantissa, B -> block.
Source: Sun et al., "Scaling Laws for Floating-Point Quantization Training", ICML 2025 (arXiv
2501.02423).
"""

from jlab.precision.arrays import Number, together
from jlab.precision.law import Params
from jlab.precision.published import FLOAT_TYPE


def float_type_loss(
    N: Number,
    D: Number,
    exponent: Number,
    mantissa: Number,
    block: Number,
    *,
    params: Params = FLOAT_TYPE,
) -> Number:
    """n/N^alpha + d/D^beta + eps + D^beta/N^alpha log2 B / (gamma (E+1/2)^delta (M+1/2)^nu).

    Args:
        N: parameters; all arguments broadcast.
        D: tokens.
        exponent: bits of the format's exponent.
        mantissa: bits of its mantissa.
        block: how many numbers share a scale.
        params: the law's eight constants.

    Example:
        >>> wide, narrow = (float_type_loss(1e9, 1e11, e, 1, 128) for e in (5, 2))
        >>> bool(wide < narrow)
        True
    """
    xp, (N, D, E, M, B, *constants) = together(
        N, D, exponent, mantissa, block, *(params[name] for name in FLOAT_TYPE)
    )
    n, alpha, d, beta, epsilon, gamma, delta, nu = constants
    noise = xp.log2(B) / (gamma * (E + 0.5) ** delta * (M + 0.5) ** nu)
    return (n / N**alpha + d / D**beta + epsilon + D**beta / N**alpha * noise)[()]
