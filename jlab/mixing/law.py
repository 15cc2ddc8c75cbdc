"""Mixing laws: what each validation loss will be, as a function of the proportions.

Every method of the framework assumes L_i(p) = c_i + b_i sigma(-sum_j A[i, j] p_j), with sigma the
identity (linear, dynamic: c is the loss at the start of a round) or exp (log-linear, static: one
law for the whole run). A[i, j] is the benefit to loss i from training on group j: positive lowers
the loss. Symbols: c -> intercept or floor [k], b -> scale[k], A -> matrix[k, m] (rows: evaluated,
columns: trained), p -> proportions[m].
Source: Chen et al., "Aioli", ICLR 2025, Section 3 (arXiv 2411.05735); the log-linear law: Ye et
al., "Data Mixing Laws", ICLR 2025 (arXiv 2403.16952).
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jlab.stats import check_bounds, minimize_on_simplex
from jlab.stats.simplex import Bound

Vector = Float[Array, "..."] | np.ndarray | Sequence


class LinearLaw(NamedTuple):
    """L_i(p) = intercept_i - sum_j A[i, j] p_j.

    Example:
        >>> law = LinearLaw(np.array([3.0, 3.0]), np.array([[0.4, 0.0], [0.0, 0.2]]))
        >>> law.predict([0.5, 0.5])
        array([2.8, 2.9])
        >>> law.minimize()
        array([1., 0.])
    """

    intercept: Float[Array, "k"]  # 0 where the levels are in the matrix: p sums to 1
    matrix: Float[Array, "k m"]  # benefit to loss i from training on group j

    def predict(self, p: Float[Array, "... m"]) -> Float[Array, "... k"]:
        """Losses at proportions p: jax arrays in, jax arrays out; else numpy float64."""
        intercept, matrix, p = _same_kind(*self, p)
        return _row(intercept, p) - _product(p, matrix)

    def minimize(
        self, weights: Vector | None = None, floor: Bound = 0.0, cap: Bound = 1.0
    ) -> Float[np.ndarray, "m"]:
        """Proportions of the smallest weighted loss (default: the mean); a vertex of the bounds.

        Args:
            weights: of the evaluated losses; not negative, not all 0.
            floor: smallest share, one for all groups or one each.
            cap: largest share.

        Raises:
            ValueError: weights or bounds that are none.
        """
        return minimize_law(self, weights, floor, cap)

    @property
    def parameters_per_loss(self) -> int:
        """How many numbers a fit of one loss chooses."""
        return self.matrix.shape[-1]


class LogLinearLaw(NamedTuple):
    """L_i(p) = floor_i + scale_i exp(-sum_j A[i, j] p_j).

    On the simplex a constant added to a row of A and a factor of its scale are the same thing, so
    the canonical form has scale 1: compare predictions, not raw parameters.

    Example:
        >>> law = LogLinearLaw(np.ones(2), np.ones(2), np.array([[2.0, 0.0], [0.0, 2.0]]))
        >>> law.predict([0.5, 0.5]).round(3)
        array([1.368, 1.368])
        >>> law.minimize().round(6)
        array([0.5, 0.5])
    """

    floor: Float[Array, "k"]  # what no amount of any group goes below
    scale: Float[Array, "k"]
    matrix: Float[Array, "k m"]  # in the exponent

    def predict(self, p: Float[Array, "... m"]) -> Float[Array, "... k"]:
        """Losses at proportions p: jax arrays in, jax arrays out; else numpy float64."""
        floor, scale, matrix, p = _same_kind(*self, p)
        exp = jnp.exp if isinstance(p, jax.Array) else np.exp
        return _row(floor, p) + _row(scale, p) * exp(-_product(p, matrix))

    def minimize(
        self, weights: Vector | None = None, floor: Bound = 0.0, cap: Bound = 1.0
    ) -> Float[np.ndarray, "m"]:
        """Proportions of the smallest weighted loss (default: the mean); convex if scale >= 0.

        Args:
            weights: of the evaluated losses; not negative, not all 0.
            floor: smallest share, one for all groups or one each.
            cap: largest share.

        Raises:
            ValueError: weights or bounds that are none.
        """
        return minimize_law(self, weights, floor, cap)

    @property
    def parameters_per_loss(self) -> int:
        """How many numbers a fit of one loss chooses."""
        return self.matrix.shape[-1] + 1


Law = LinearLaw | LogLinearLaw


def minimize_law(
    law: Law, weights: Vector | None = None, floor: Bound = 0.0, cap: Bound = 1.0
) -> Float[np.ndarray, "m"]:
    """`law.minimize` on the host in float64: checks, then `optimum` compiled once per shape."""
    k, m = law.matrix.shape
    low, high = check_bounds(floor, cap, m)
    weights = check_weights(weights, k)
    with jax.enable_x64(True):
        law = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), law)
        return np.asarray(_optimum(law, weights, low, high))


def optimum(
    law: Law,
    weights: Float[Array, "k"],
    floor: Float[Array, "m"],
    cap: Float[Array, "m"],
) -> Float[Array, "m"]:
    """Proportions that minimise sum_i weights_i L_i(p) within bounds; pure, for jit and vmap."""
    return minimize_on_simplex(
        lambda p: (weights * law.predict(p)).sum(), law.matrix.shape[1], floor=floor, cap=cap
    )


def check_weights(weights: Vector | None, k: int) -> Float[np.ndarray, "k"]:
    """Weights of the evaluated losses, scaled to sum 1; None means their mean.

    Raises:
        ValueError: another number of weights, one that is negative or not finite, or all 0.
    """
    vector = np.ones(k) if weights is None else np.asarray(weights, np.float64)
    if vector.shape != (k,):
        raise ValueError(
            f"weights must be one number per loss: {k} losses, weights of shape {vector.shape}"
        )
    if not np.all(np.isfinite(vector)) or np.any(vector < 0) or not vector.any():
        raise ValueError(
            f"weights must be finite, not negative and not all 0; got {vector.tolist()}"
        )
    return vector / vector.sum()


_optimum = jax.jit(optimum)


def _same_kind(*arrays):
    """All as jax arrays in the type of p, the last, if any is one; else all as numpy float64."""
    if not any(isinstance(array, jax.Array) for array in arrays):
        return [np.asarray(array, np.float64) for array in arrays]
    p = jnp.asarray(arrays[-1])
    dtype = p.dtype if jnp.issubdtype(p.dtype, jnp.floating) else jnp.asarray(0.0).dtype
    return [jnp.asarray(array, dtype) for array in arrays]


def _row(vector, p):
    """A vector [k] with an axis of length 1 for each leading axis of p."""
    return vector.reshape((1,) * (p.ndim - 1) + vector.shape)


def _product(p, matrix):
    """sum_j A[i, j] p_j for every i; in full precision, which accelerators do not default to."""
    if isinstance(p, jax.Array):
        return jnp.matmul(p, matrix.T, precision=jax.lax.Precision.HIGHEST)
    return p @ matrix.T
