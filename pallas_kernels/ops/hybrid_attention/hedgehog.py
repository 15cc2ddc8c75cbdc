"""Hedgehog feature maps: what linear attention needs to imitate the softmax's sharp weights."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pallas_kernels.dispatch import check_arrays, check_one_dtype

# A feature never gets smaller than this, so that sums of them can be divided by.
_SMALLEST = 1e-6


def hedgehog_features(
    x: Float[Array, "b l x_heads d"], w: Float[Array, "h d f"]
) -> Float[Array, "b l h features"]:
    """max([softmax(x w), softmax(-x w)], 1e-6): two separate softmaxes, 2 f features per head.

    `x` may have fewer heads than `w`, since query heads that share a key have maps of their own;
    x head j then serves heads j h / x_heads and following. Computed in at least float32, returned
    in the dtype of `x`.

    Raises:
      ValueError: for maps that do not fit `x`.
      TypeError: for an `x` that is not of floats.

    Source: Hedgehog, arXiv 2402.04347; the clipping is that of the kernel of arXiv 2410.20399.
    """
    check_arrays("hedgehog_features", w=w)
    check_one_dtype("hedgehog_features", x=x)
    fits = x.ndim == 4 and w.ndim == 3 and w.shape[1] == x.shape[3] and w.shape[0] % x.shape[2] == 0
    if not fits:
        raise ValueError(
            "hedgehog_features: w must have shape (h, d, f) for x of shape (b, l, x_heads, d), h a"
            f" multiple of x_heads; got w {w.shape} for x {x.shape}"
        )
    wide = jnp.promote_types(x.dtype, jnp.float32)
    shared = jnp.repeat(x.astype(wide), w.shape[0] // x.shape[2], axis=2)
    z = jnp.einsum("blhd,hdf->blhf", shared, w.astype(wide), precision="highest")
    both = jnp.concatenate([jax.nn.softmax(z), jax.nn.softmax(-z)], axis=-1)
    return jnp.maximum(both, _SMALLEST).astype(x.dtype)
