"""Compare a method's matrix with what branched runs measured: one scale, and the two-group form.

A method finds its matrix only up to a factor, so one scalar b is fitted, loss change ~ b A p,
before A~ = b A is held against the fitted matrix A* (`matrix_similarity`). Since A is a benefit
and the change of a useful run is negative, b is negative for a good method.
Symbols: b -> scale, A -> matrix[k, m] (rows: evaluated, columns: trained), p -> proportions[m].
Source: Chen et al., "Aioli", ICLR 2025, Section 4.2 (arXiv 2411.05735).
"""

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jlab.mixing.law_runs import check_runs
from jlab.stats import multistart_fit


def fit_scale(
    matrix: Float[np.ndarray, "k m"],
    p: Float[np.ndarray, "n m"],
    loss_change: Float[np.ndarray, "n k"],
    *,
    huber: float | None = 0.02,
    intercept: bool = False,
) -> float:
    """The scalar b for which b A p explains the change of the losses best; with a zero A p, 0.

    Args:
        matrix: a method's A.
        p: proportions of the branched runs.
        loss_change: loss after the branch minus loss before.
        huber: delta of the Huber loss; None for least squares.
        intercept: also fit a constant per loss, as the paper does for two groups.

    Raises:
        ValueError: shapes that do not match, a row off the simplex, a value that is missing.
    """
    p, change = check_runs(p, loss_change)
    A = np.asarray(matrix, np.float64)
    if A.shape != (change.shape[-1], p.shape[1]) or not np.all(np.isfinite(A)):
        raise ValueError(
            f"matrix must be finite, one row per loss ({change.shape[-1]}) and one column per "
            f"group ({p.shape[1]}); got shape {A.shape}"
        )
    slope = (p @ A.T).ravel()
    constants = np.tile(np.eye(A.shape[0]), (len(p), 1)) * intercept
    columns = np.column_stack([slope, constants])
    # The solution of least norm: 0 for columns that are all zero.
    start = np.linalg.lstsq(columns, change.ravel(), rcond=None)[0]
    huber = math.inf if huber is None else huber
    fit = multistart_fit(_residuals, start[None, :], columns, change.ravel(), huber=huber)
    return float(fit.params[0])


def two_group_matrix(
    matrix: Float[np.ndarray, "2 2"],
    scale: float = 1.0,
    loss: Float[np.ndarray, "2"] | None = None,
) -> Float[np.ndarray, "2 2"]:
    """What two groups' runs can identify of A: diag(b (A11 - A12), b (A22 - A21)).

    With p_2 = 1 - p_1 only the slope of each loss in its own share is seen.

    Args:
        matrix: a method's A.
        scale: b of `fit_scale`.
        loss: current losses, for a graph of relative changes (Skill-It): rows are multiplied.

    Raises:
        ValueError: a matrix that is not 2 by 2.
    """
    A = np.asarray(matrix, np.float64)
    if A.shape != (2, 2):
        raise ValueError(f"matrix must be 2 by 2; got shape {A.shape}")
    rows = np.ones(2) if loss is None else np.asarray(loss, np.float64)
    return np.diag(scale * rows * np.array([A[0, 0] - A[0, 1], A[1, 1] - A[1, 0]]))


def _residuals(
    params: Float[Array, "d"], columns: Float[Array, "n d"], change: Float[Array, "n"]
) -> Float[Array, "n"]:
    return (columns * params[None, :]).sum(1) - jnp.asarray(change)
