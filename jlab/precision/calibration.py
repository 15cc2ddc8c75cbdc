"""What the methods need to know of a map's inputs: sums over the rows of calibration text.

`(moments_init, add_rows)` take rows part by part, so that no more than a part is ever in memory.
The error that a changed kernel makes in the map's outputs follows from the sums alone.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jlab.precision.grids import check_finite


class Moments(NamedTuple):
    """Sums over rows x of the inputs."""

    rows: Int[Array, ""]  # how many there were
    absolute: Float[Array, "inputs"]  # sum of |x|
    second: Float[Array, "inputs inputs"]  # sum of x x^T


def moments_init(inputs: int, dtype: jnp.dtype | str = jnp.float32) -> Moments:
    """Sums over no rows; float32, or float64 where that is enabled."""
    return Moments(
        jnp.zeros((), jnp.int32), jnp.zeros(inputs, dtype), jnp.zeros((inputs, inputs), dtype)
    )


def add_rows(
    moments: Moments, x: Float[Array, "rows inputs"], real: Bool[Array, "rows"] | None = None
) -> Moments:
    """The sums with more rows; those that are not `real`, such as padding, are left out."""
    x = x.astype(moments.second.dtype)
    if real is None:
        count = len(x)
    else:
        # Not times zero: padding may hold infinities.
        x, count = jnp.where(real[:, None], x, 0), real.sum(dtype=jnp.int32)
    # Products of fewer bits, a GPU's default, would leave a matrix that is not positive definite.
    products = jnp.matmul(x.T, x, precision="highest")
    return Moments(
        moments.rows + count, moments.absolute + jnp.abs(x).sum(0), moments.second + products
    )


def read_moments(
    calibration: Float[Array, "rows inputs"] | Moments, inputs: int, dtype: jnp.dtype
) -> Moments:
    """Rows, or sums over them, as sums over rows.

    Raises:
      ValueError: rows of another width than `inputs`, none at all, or not finite; one line.
    """
    if not isinstance(calibration, Moments):
        x = jnp.asarray(calibration)
        if x.ndim != 2 or x.shape[1] != inputs:
            raise ValueError(f"calibration must have shape [rows, {inputs}]; got {x.shape}")
        if len(x) == 0:
            raise ValueError("calibration must have at least one row; got none")
        calibration = _sums(x, dtype)
    elif calibration.second.shape != (inputs, inputs):
        raise ValueError(
            f"calibration must be of {inputs} inputs; got {calibration.second.shape[0]}"
        )
    elif not isinstance(calibration.rows, jax.core.Tracer) and calibration.rows == 0:
        raise ValueError("calibration must have at least one row; got none")
    check_finite("calibration", calibration.absolute)
    check_finite("calibration", calibration.second)
    return jax.tree.map(
        lambda a: a.astype(dtype) if jnp.issubdtype(a.dtype, jnp.floating) else a, calibration
    )


@jax.jit
def output_errors(
    difference: Float[Array, "inputs outputs"], second: Float[Array, "inputs inputs"]
) -> Float[Array, "outputs"]:
    """Sum over the rows of the squared change of each output, where the kernel changes so.

    Source: derived; sum over x of (x^T d)^2 = d^T (sum of x x^T) d.
    """
    products = jnp.matmul(second, difference, precision="highest")
    # Sums of rounding errors can be below 0 where the change is almost none.
    return jnp.maximum((products * difference).sum(0), 0)


def _sums(x: Float[Array, "rows inputs"], dtype: jnp.dtype) -> Moments:
    return jax.jit(add_rows)(moments_init(x.shape[1], dtype), x)
