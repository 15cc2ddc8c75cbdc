"""Formulas for both kinds of arrays: jax where any argument is, so that they compile and have
gradients; else NumPy in float64, whatever jax is set to."""

from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Number = float | Float[np.ndarray, "..."] | Float[Array, "..."]


def together(*values: Number) -> tuple[ModuleType, list[Number]]:
    """`jnp` or `np`, and the values as arrays of one kind, one dtype and one shape.

    Example:
        >>> xp, (N, bits) = together(30e6, np.array([4, 8]))
        >>> xp.__name__, N.shape, N.dtype.name
        ('numpy', (2,), 'float64')
    """
    ours = [value for value in values if isinstance(value, jax.Array)]
    if not ours:
        return np, list(np.broadcast_arrays(*(np.asarray(v, np.float64) for v in values)))
    dtype = jnp.result_type(*ours)
    if not jnp.issubdtype(dtype, jnp.floating):
        dtype = jnp.asarray(0.0).dtype
    # Counts such as 8_000_000_000 do not fit jax's integers: NumPy makes them floats first.
    arrays = [v if isinstance(v, jax.Array) else np.asarray(v, np.float64) for v in values]
    return jnp, list(jnp.broadcast_arrays(*(jnp.asarray(v, dtype) for v in arrays)))
