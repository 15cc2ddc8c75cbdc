"""Rotary embedding in Triton, for GPUs other than Hopper: a program turns all heads of a place."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as pltriton
from jaxtyping import Array, Float

from pallas_kernels.ops.pieces import pieces


def unfit(x: Array) -> str | None:
    """Why the kernel cannot take this input; None if it can."""
    if x.dtype not in (jnp.bfloat16, jnp.float16, jnp.float32):
        return f"it takes bfloat16, float16 or float32; got {x.dtype}"
    return None


def rotate(
    x: Float[Array, "b l heads dim"],
    cos: Float[Array, "#b l half"],
    sin: Float[Array, "#b l half"],
    *,
    interpret: bool = False,
) -> Float[Array, "b l heads dim"]:
    """Every head of a place turned by the place's angles; rounded once."""
    batch, length, heads, dim = x.shape
    half = cos.shape[-1]

    def program(x_ref: Any, cos_ref: Any, sin_ref: Any, y_ref: Any) -> None:
        b, place = pl.program_id(0), pl.program_id(1)
        table = b if cos.shape[0] > 1 else 0
        for some in pieces(heads):
            for pairs in pieces(half):
                c, s = (
                    ref[table, place, pairs][None].astype(jnp.float32) for ref in (cos_ref, sin_ref)
                )
                first = (b, place, some, pairs)
                second = (b, place, some, pl.ds(half + pairs.start, pairs.size))
                x1, x2 = (x_ref[where].astype(jnp.float32) for where in (first, second))
                y_ref[first] = (x1 * c - x2 * s).astype(x.dtype)
                y_ref[second] = (x2 * c + x1 * s).astype(x.dtype)
            for rest in pieces(dim - 2 * half, 2 * half):
                y_ref[b, place, some, rest] = x_ref[b, place, some, rest]

    varying = jax.typeof(x).manual_axis_type  # along the devices of an enclosing shard_map
    return pl.pallas_call(
        program,
        grid=(batch, length),
        out_shape=jax.ShapeDtypeStruct(x.shape, x.dtype, manual_axis_type=varying),
        compiler_params=pltriton.CompilerParams(num_warps=4),
        interpret=interpret,
    )(x, cos, sin)
