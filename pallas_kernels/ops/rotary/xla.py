"""Rotary position embedding in plain XLA: the definition that the kernels are held against.

A head x = (x1, x2, rest) has its first two parts, of the tables' width each, turned as the pairs
(x1_i, x2_i) in the plane: y = (x1 cos - x2 sin, x2 cos + x1 sin, rest).
Source: RoFormer, arXiv 2104.09864, Section 3.2.2, with the pairs split in halves as in GPT-NeoX.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float


def rotate(
    x: Float[Array, "b l heads dim"], cos: Float[Array, "#b l half"], sin: Float[Array, "#b l half"]
) -> Float[Array, "b l heads dim"]:
    """Every head of a place turned by the place's angles; in at least float32, rounded once."""
    half = cos.shape[-1]
    wide = jnp.promote_types(x.dtype, cos.dtype)
    cos, sin = cos[:, :, None].astype(wide), sin[:, :, None].astype(wide)
    x1, x2 = x[..., :half].astype(wide), x[..., half : 2 * half].astype(wide)
    turned = jnp.concatenate([x1 * cos - x2 * sin, x2 * cos + x1 * sin], -1).astype(x.dtype)
    return jnp.concatenate([turned, x[..., 2 * half :]], -1)
