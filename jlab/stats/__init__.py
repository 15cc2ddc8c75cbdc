"""Small numerics that several methods share, in float64 where they fit: pure functions of arrays.

Least squares and Huber fits from many starts at once, bootstrap intervals, and the simplex with
bounds: projection and minimisation.

    >>> import numpy as np, jax.numpy as jnp
    >>> def line(params, x, y):
    ...     return params[0] + params[1] * x - y
    >>> x = np.array([0.0, 1.0, 2.0, 3.0])
    >>> multistart_fit(line, np.zeros((1, 2)), x, 1 + 2 * x).params.round(6)
    array([1., 2.])
"""

import jlab.stats.cpu  # noqa: F401  sets a flag before anything is computed
from jlab.stats.bootstrap import bootstrap, percentile_interval, resample
from jlab.stats.fit import Fit, multistart_fit
from jlab.stats.interval import Interval, mean_interval
from jlab.stats.simplex import check_bounds, minimize_on_simplex, project_simplex

__all__ = [
    "Fit",
    "Interval",
    "bootstrap",
    "check_bounds",
    "mean_interval",
    "minimize_on_simplex",
    "multistart_fit",
    "percentile_interval",
    "project_simplex",
    "resample",
]
