"""The interval of a mean of few numbers: Student's t."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float


class Interval(NamedTuple):
    """A mean and how far the true one may lie from it."""

    mean: float
    half_width: float  # NaN where there is one number only

    @property
    def excludes_zero(self) -> bool:
        """Whether all of the interval lies on one side of 0."""
        return abs(self.mean) > self.half_width


def mean_interval(values: Float[np.ndarray, "n"], level: float = 0.95) -> Interval:
    """Mean of independent numbers with its two-sided interval, for few numbers too.

    Args:
        values: at least one, for instance paired differences over seeds.
        level: chance that the interval holds the true mean, if the numbers are normal.

    Raises:
        ValueError: no value, or a level outside (0, 1).

    Example:
        >>> interval = mean_interval(np.array([1.0, 2.0, 3.0]))
        >>> round(interval.mean, 3), round(interval.half_width, 3)
        (2.0, 2.484)
    """
    from scipy import stats

    values = np.asarray(values, np.float64)
    if values.size == 0:
        raise ValueError("values must hold at least one number; got none")
    if not 0 < level < 1:
        raise ValueError(f"level must be in (0, 1); got {level}")
    n = values.size
    if n == 1:
        return Interval(float(values[0]), float("nan"))
    error = values.std(ddof=1) / np.sqrt(n)
    return Interval(float(values.mean()), float(stats.t.ppf(0.5 + level / 2, n - 1) * error))
