"""Types of arrays: arithmetic is in float32 or wider, and no type or rank changes unasked."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped


def wide(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """The array in float32, or in its own type where that has more digits."""
    return x if jnp.finfo(x.dtype).bits > 32 else x.astype(jnp.float32)


def by_channel(
    values: Float[Array, "d"], like: Shaped[Array, "*batch d"]
) -> Shaped[Array, "... d"]:
    """One value per channel, in the type and of the rank of the array that it meets."""
    return jnp.asarray(values).astype(like.dtype).reshape((1,) * (like.ndim - 1) + (-1,))
