"""Bootstrap: how far a statistic would move with another sample of the same size.

Source: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, Chapters 6 and 13.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int


def resample(n: int, *, samples: int, seed: int) -> Int[np.ndarray, "samples n"]:
    """Row numbers of `samples` draws of n rows out of n, with replacement.

    Raises:
        ValueError: no rows or no samples.
    """
    for name, value in (("n", n), ("samples", samples)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1; got {value}")
    return np.random.default_rng(seed).integers(0, n, (samples, n))


def bootstrap(
    statistic: Callable[..., np.ndarray], *arrays: np.ndarray, samples: int = 1000, seed: int = 0
) -> Float[np.ndarray, "samples ..."]:
    """The statistic on `samples` resamplings of the rows; all arrays are resampled together.

    Args:
        statistic: arrays -> number or array.
        arrays: one row per observation, equally many.
        samples: how many resamplings.
        seed: of the drawing.

    Raises:
        ValueError: arrays of unequal length, no rows or no samples.

    Example:
        >>> means = bootstrap(np.mean, np.arange(10.0), samples=500, seed=1)
        >>> low, high = percentile_interval(means, level=0.9)
        >>> means.shape, bool(low < 4.5 < high)
        ((500,), True)
    """
    arrays = [np.asarray(array) for array in arrays]
    lengths = sorted({len(array) for array in arrays})
    if len(lengths) != 1:
        raise ValueError(f"arrays must be equally long; got lengths {lengths}")
    rows = resample(lengths[0], samples=samples, seed=seed)
    return np.stack([statistic(*(array[row] for array in arrays)) for row in rows])


def percentile_interval(
    values: Float[np.ndarray, "samples ..."], *, level: float = 0.95
) -> tuple[Float[np.ndarray, "..."], Float[np.ndarray, "..."]]:
    """Lower and upper end of the central interval that holds `level` of the values.

    Raises:
        ValueError: a level outside (0, 1).
    """
    if not 0 < level < 1:
        raise ValueError(f"level must lie in (0, 1); got {level}")
    low, high = np.quantile(values, [0.5 - level / 2, 0.5 + level / 2], axis=0)
    return np.asarray(low), np.asarray(high)
