"""Equation 2 in closed form: the logarithm of the degradation is linear in what is to be found."""

import math

import numpy as np
from jaxtyping import Float

from jlab.precision.law import Params

_FLAT = 1e-9  # least slope in bits


def fit_degradation(
    N: Float[np.ndarray, "rows"],
    D: Float[np.ndarray, "rows"],
    Ppost: Float[np.ndarray, "rows"],
    rise: Float[np.ndarray, "rows"],
) -> Params:
    """Equation 2 by least squares on log delta, which is exact.

    Returns C_T, gamma_D, gamma_N and gamma_post; C_T and b cannot be told apart, so that b is 0 and
    C_T is C_T e^b.

    Args:
        N: parameters of each quantised model.
        D: tokens that it was trained on.
        Ppost: bits it was quantised to.
        rise: of the loss; rows where it is not positive are left out.

    Raises:
        ValueError: positive rows that do not determine the four.
    """
    rise, Ppost = np.asarray(rise, np.float64), np.asarray(Ppost, np.float64)
    kept = rise > 0
    columns = np.stack([np.ones(len(rise)), np.log(D), -np.log(N), -Ppost], 1)
    found, _, rank, _ = np.linalg.lstsq(columns[kept], np.log(rise[kept]), rcond=None)
    if rank < 4:
        raise ValueError(
            "the degradation needs rows that rise, of at least 2 different N, D and Ppost; "
            f"got {int(kept.sum())} rows"
        )
    height, gamma_D, gamma_N, fall = map(float, found)
    if fall < _FLAT:  # bits that change nothing, or make it worse: no finite gamma_post
        rest, fall = columns[kept, :3], _FLAT
        found = np.linalg.lstsq(rest, np.log(rise[kept]) + fall * Ppost[kept], rcond=None)[0]
        height, gamma_D, gamma_N = map(float, found)
    return {
        "C_T": math.exp(height),
        "gamma_D": gamma_D,
        "gamma_N": gamma_N,
        "gamma_post": 1 / fall,
        "b": 0.0,
    }
