"""Angles of rotary position embedding, as tables of cosines and sines."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from pallas_kernels.dispatch import check_count


def rope_tables(
    n: int, dim: int, base: float = 1e4, *, dtype: Any = jnp.float32
) -> tuple[Float[Array, "n half"], Float[Array, "n half"]]:
    """Cosines and sines of the angles t * base^(-2i/dim), for places t < n and i < dim/2.

    The angles are formed in float64: a float32 product t * theta loses a digit of the angle for
    each digit of t.

    Args:
      n: number of places.
      dim: how many leading dims of a head are rotated; even.
      base: of the geometric series of wavelengths.
      dtype: of the tables.

    Raises:
      ValueError: for a size or base that no table can have.

    Source: RoFormer, arXiv 2104.09864, Equation 15.

    >>> cos, sin = rope_tables(2, 2)
    >>> [round(float(x), 4) for x in (cos[1, 0], sin[1, 0])]
    [0.5403, 0.8415]
    """
    check_count("rope_tables", n=n)
    if dim < 2 or dim % 2:
        raise ValueError(f"rope_tables: dim must be even and at least 2; got {dim}")
    if not base > 0:
        raise ValueError(f"rope_tables: base must be positive; got {base}")
    theta = float(base) ** (-2 * np.arange(dim // 2) / dim)
    angles = np.outer(np.arange(n), theta)
    return jnp.asarray(np.cos(angles), dtype), jnp.asarray(np.sin(angles), dtype)
