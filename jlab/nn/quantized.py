"""Weights as the codes of a number format with the grids they lie on: what is stored and packed."""

from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Num

from jlab.nn.formats import FloatFormat, IntFormat
from jlab.nn.quant import Grid, decode


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["codes", "step", "zero", "group"],
    meta_fields=["fmt"],
)
@dataclass(frozen=True)
class Quantized:
    """A kernel whose input i has the grids number `group[i]`, one for each output.

    `dequantize` gives the numbers: `(codes - zero[group]) * step[group]`.
    """

    codes: Num[Array, "inputs outputs"]  # whole numbers, in the smallest type; or those of a float
    step: Float[Array, "groups outputs"]
    zero: Num[Array, "groups outputs"]  # the code of 0, in the type of the codes
    group: Int[Array, "inputs"]
    fmt: IntFormat | FloatFormat


def quantized(
    codes: Float[Array, "inputs outputs"],
    grids: Grid,
    group: Int[Array, "inputs"],
    fmt: IntFormat | FloatFormat,
) -> Quantized:
    """Codes as `jlab.nn.quant.encode` gives them, in the smallest type that holds them."""
    dtype = code_type(fmt)
    if dtype is None:
        return Quantized(codes, grids.step, grids.zero, group, fmt)
    return Quantized(codes.astype(dtype), grids.step, grids.zero.astype(dtype), group, fmt)


def code_type(fmt: IntFormat | FloatFormat) -> jnp.dtype | None:
    """Type of codes that are whole numbers; None for those of a float format."""
    if isinstance(fmt, FloatFormat):
        return None
    size = 8 if fmt.bits <= 8 else 16
    return jnp.dtype(f"int{size}" if fmt.signed else f"uint{size}")


@partial(jax.jit, static_argnums=1)  # one rounding: the same bits, however it is compiled
def dequantize(
    q: Quantized, dtype: jnp.dtype | str | None = None
) -> Float[Array, "inputs outputs"]:
    """The numbers that the codes stand for, to the bit the same wherever they are computed.

    Args:
      q: the codes and their grids.
      dtype: of the result; None: that of the steps, at least float32.
    """
    wide = jnp.promote_types(q.step.dtype, jnp.float32)
    # The codes are wide before the zero is taken away: a byte cannot hold every difference.
    grid = Grid(q.step.astype(wide)[q.group], q.zero.astype(wide)[q.group])
    return decode(q.codes.astype(wide), grid).astype(dtype or wide)


def cast_steps(q: Quantized, dtype: jnp.dtype | str) -> Quantized:
    """The same codes with steps of another type, for instance float16 for smaller files.

    Steps that it cannot hold become its nearest number that is not 0 and finite.
    """
    if q.step.dtype == jnp.dtype(dtype):
        return q
    limits = jnp.finfo(dtype)
    step = jnp.clip(q.step, float(limits.smallest_subnormal), float(limits.max))
    return replace(q, step=step.astype(dtype))


def scale_outputs(q: Quantized, factor: Float[Array, "outputs"]) -> Quantized:
    """The weights of output j times `factor[j] > 0`: the codes stay."""
    wide = jnp.promote_types(q.step.dtype, jnp.float32)
    step = q.step.astype(wide) * factor.astype(wide)[None]
    return cast_steps(replace(q, step=step), q.step.dtype)
