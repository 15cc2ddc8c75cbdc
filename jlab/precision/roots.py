"""Where a function of bits falls through 0, for many parameters at once."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

Values = float | Float[np.ndarray, "..."]

MOST = 128.0  # bits beyond which no optimum is looked for
GRID = 2048  # points on which a root is bracketed
HALVINGS = 60


def last_fall(
    gain: Callable[[Float[np.ndarray, "..."]], Float[np.ndarray, "..."]], low: Values
) -> Values:
    """The largest P in (low, MOST) where `gain` falls through 0; NaN where it does not.

    Args:
        gain: elementwise, of P with one more axis in front of its parameters' axes.
        low: where to begin; NaN gives NaN.
    """
    low = np.asarray(low, np.float64)
    steps = np.linspace(0, 1, GRID).reshape(-1, *(1,) * low.ndim)
    P = low * (MOST / low) ** steps  # evenly in log P: gamma is of the order of a few bits
    falls = (gain(P[:-1]) > 0) & ~(gain(P[1:]) > 0)
    last = len(falls) - 1 - np.argmax(falls[::-1], axis=0)
    left, right = (np.take_along_axis(P, (last + k)[None], 0)[0] for k in (0, 1))
    for _ in range(HALVINGS):
        middle = (left + right) / 2
        up = gain(middle[None])[0] > 0
        left, right = np.where(up, middle, left), np.where(up, right, middle)
    return np.where(falls.any(0), left, np.nan)[()]
