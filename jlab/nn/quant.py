"""Rounding to number formats, and training through it.

`round_to(x, fmt)` rounds to the numbers that a format has. `fake_quant(x, fmt, axis)` first scales
so that the range of `x` fits them, and scales back: the numbers that a quantised tensor stands for,
in the type of `x`. Its gradient passes straight through.

Source: Kumar et al. 2024, "Scaling Laws for Precision", arXiv 2411.04330, Appendix D; Bengio et al.
2013, arXiv 1308.3432 (straight-through gradients).
"""

from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jlab.nn.formats import BlockFormat, FloatFormat, Format, IntFormat

Axis = int | tuple[int, ...] | None
STE = Literal["identity", "clipped"]


class Grid(NamedTuple):
    """Where the codes of a format lie: code c stands for `(c - zero) * step`."""

    step: Float[Array, "..."]  # as x, with length 1 along the axes that share it
    zero: Float[Array, "..."]  # the code of 0, a whole number; 0 for floats and signed integers


def round_to(
    x: Float[Array, "..."], fmt: IntFormat | FloatFormat, key: Array | None = None
) -> Float[Array, "..."]:
    """The numbers of `fmt` nearest to `x`; what lies outside becomes its greatest or least.

    Ties go to the even code. With a key rounding is stochastic: to one of the two neighbours, with
    odds that keep the mean, of what is not cut. NaN stays NaN. Computed in at least float32 and
    returned in the type of `x`, which for formats of more mantissa bits than it has rounds once
    more.

    Raises:
      TypeError: `fmt` is a block format, which has no numbers of its own without scales.

    Example:
      >>> round_to(jnp.array([0.3, 2.5, -9.0]), IntFormat(4)).tolist()
      [0.0, 2.0, -8.0]
      >>> round_to(jnp.array([0.3, 2.6, -9.0]), FloatFormat(2, 1)).tolist()
      [0.5, 3.0, -6.0]
    """
    if isinstance(fmt, BlockFormat):
        raise TypeError(f"round_to needs a format without blocks; got {fmt}")
    wide = _wide(x)
    if isinstance(fmt, IntFormat):
        rounded = jnp.clip(_round(wide, key), fmt.lowest, fmt.highest)
    else:
        rounded = _round_float(wide, fmt, key)
    return rounded.astype(x.dtype)


def _wide(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """In float32, or in float64 where `x` is."""
    return x if x.dtype == jnp.float64 else x.astype(jnp.float32)


def _round(x: Float[Array, "..."], key: Array | None) -> Float[Array, "..."]:
    if key is None:
        return jnp.round(x)
    return jnp.floor(x + jax.random.uniform(key, x.shape, x.dtype))


def _round_float(
    x: Float[Array, "..."], fmt: FloatFormat, key: Array | None
) -> Float[Array, "..."]:
    # A power of two and a number in [1/2, 1): log2 and exp2 are not exact everywhere.
    fraction, exponent = jnp.frexp(x)
    exponent = exponent - 1
    # Below the least normal number the spacing stays as it is, so that fewer bits are kept.
    lost = jnp.maximum(fmt.least_exponent - exponent, 0)
    scaled = jnp.ldexp(fraction, fmt.mantissa + 1 - lost)  # spacing 1
    rounded = _round(scaled, key)
    if fmt.mantissa == 0 and key is None:
        # Neighbours differ in the exponent alone: the even code is not the even multiple.
        tie = (jnp.abs(scaled) == 1.5) & (lost == 0)
        even = (exponent - fmt.least_exponent) % 2 == 1
        rounded = jnp.where(tie, jnp.sign(x) * jnp.where(even, 1.0, 2.0), rounded)
    value = jnp.ldexp(rounded, exponent + lost - fmt.mantissa)
    return jnp.clip(jnp.where(x == 0, x, value), -fmt.max, fmt.max)


def make_grid(x: Float[Array, "..."], fmt: IntFormat | FloatFormat, axis: Axis = None) -> Grid:
    """The grid that the range of `x` along `axis` (None: of the whole of `x`) asks for.

    Numbers that are all 0 get a step that keeps them 0. In at least float32.
    """
    x = _wide(x)
    if isinstance(fmt, FloatFormat):
        return _no_zero(jnp.abs(x).max(axis, keepdims=True) / fmt.max)
    size = jnp.abs(x).max(axis, keepdims=True)
    if fmt.grid == "absmax_sym":
        return _no_zero(size / fmt.highest)
    if fmt.grid == "full_sym":
        return _no_zero(size / (fmt.highest + 0.5))
    low, high = x.min(axis, keepdims=True), x.max(axis, keepdims=True)
    codes = fmt.highest
    if fmt.grid == "awq_asym":
        step = jnp.maximum(high - low, 1e-5) / codes
        return Grid(step, jnp.clip(-jnp.round(low / step), 0, codes))
    low, high = jnp.minimum(low, 0), jnp.maximum(high, 0)
    if fmt.grid == "gptq_sym":
        low, high = jnp.where(low < 0, -size, low), size
    empty = (low == 0) & (high == 0)
    low, high = jnp.where(empty, -1, low), jnp.where(empty, 1, high)
    step = _nonzero((high - low) / codes)
    if fmt.grid == "gptq_sym":
        return Grid(step, jnp.full_like(step, (codes + 1) // 2))
    return Grid(step, jnp.round(-low / step))


def _no_zero(step: Float[Array, "..."]) -> Grid:
    return Grid(_nonzero(step), jnp.zeros_like(step))


def _nonzero(step: Float[Array, "..."]) -> Float[Array, "..."]:
    """1 for a step of 0: of a range that is 0, or too small for the type."""
    return jnp.where(step == 0, 1, step)


def encode(
    x: Float[Array, "..."], fmt: IntFormat | FloatFormat, grid: Grid, key: Array | None = None
) -> Float[Array, "..."]:
    """Codes of `x` on a grid, as floating-point numbers: whole, or those of the float format."""
    scaled = x.astype(grid.step.dtype) / grid.step
    if isinstance(fmt, FloatFormat):
        return round_to(scaled, fmt, key)
    # The zero point is added after rounding, as GPTQ and AWQ do: ties then go the same way.
    return jnp.clip(_round(scaled, key) + grid.zero, fmt.lowest, fmt.highest)


def decode(codes: Float[Array, "..."], grid: Grid) -> Float[Array, "..."]:
    """The numbers that codes stand for."""
    return (codes - grid.zero) * grid.step


def fake_quant(
    x: Float[Array, "..."],
    fmt: Format | None,
    axis: Axis = None,
    ste: STE = "identity",
    *,
    group_size: int | None = None,
    step: float | Float[Array, "..."] | None = None,
    key: Array | None = None,
) -> Float[Array, "..."]:
    """`x` as a tensor of format `fmt` would hold it: scaled, rounded and scaled back.

    Args:
      x: what is quantised, in the type that comes back; computed in at least float32.
      fmt: the format; None leaves `x` as it is.
      axis: along which numbers share a scale: for `kernel[inputs, outputs]` 0 is one scale per
        output channel; None is one for the whole tensor. Blocks lie along it (None: the last).
      ste: the gradient: that of the identity, or zero where `x` lies outside the codes ("clipped":
        with a given step; a range taken from `x` leaves nothing outside).
      group_size: numbers that share a scale are `group_size` neighbours along the one `axis`.
      step: of the grid, where it is fixed and not taken from the range of `x`.
      key: round stochastically.

    Raises:
      ValueError: no such gradient, or groups that do not divide the axis.

    Example:
      >>> (10 * fake_quant(jnp.array([0.1, -0.7, 0.33]), IntFormat(4))).round().tolist()
      [1.0, -7.0, 3.0]
    """
    if ste not in ("identity", "clipped"):
        raise ValueError(f"ste must be identity or clipped; got {ste!r}")
    if fmt is None:
        return x
    if isinstance(fmt, BlockFormat):
        if group_size is not None or step is not None:
            raise ValueError(f"group_size and step must be None where fmt is {fmt}")
        return _through(fmt, -1 if axis is None else axis, ste, x, None, key)
    if group_size is None:
        return _through(fmt, axis, ste, x, step, key)
    groups, axis = split_axis(x, axis, group_size)
    return _through(fmt, axis, ste, groups, step, key).reshape(x.shape)


def split_axis(
    x: Float[Array, "..."], axis: Axis, group_size: int
) -> tuple[Float[Array, "..."], int]:
    """`x` with one axis split into groups of `group_size`, and the axis within a group.

    Raises:
      ValueError: not one axis, or a size that does not divide its length.
    """
    if not isinstance(axis, int):
        raise ValueError(f"axis must be one axis where group_size is given; got {axis}")
    axis, length = axis % x.ndim, x.shape[axis]
    if group_size < 1 or length % group_size:
        raise ValueError(
            f"group_size must divide {length}, the length of the axis; got {group_size}"
        )
    groups = (length // group_size, group_size)
    return x.reshape(*x.shape[:axis], *groups, *x.shape[axis + 1 :]), axis + 1


@partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2))
def _through(fmt: Format, axis: Axis, ste: STE, x, step, key) -> Float[Array, "..."]:
    """What `fake_quant` computes, with the straight-through gradient."""
    if isinstance(fmt, BlockFormat):
        return _in_blocks(x, fmt, axis, key).astype(x.dtype)
    grid = make_grid(x, fmt, axis) if step is None else _fixed(x, step)
    return decode(encode(x, fmt, grid, key), grid).astype(x.dtype)


@_through.defjvp
def _through_jvp(fmt: Format, axis: Axis, ste: STE, primals, tangents):
    (x, step, key), (tangent, *_) = primals, tangents
    y = _through(fmt, axis, ste, x, step, key)
    if ste == "clipped" and step is not None:
        low, high = (fmt.lowest, fmt.highest) if isinstance(fmt, IntFormat) else (-fmt.max, fmt.max)
        scaled = x / _fixed(x, step).step
        tangent = jnp.where((low <= scaled) & (scaled <= high), tangent, 0)
    return y, tangent


def _fixed(x: Float[Array, "..."], step: float | Array) -> Grid:
    step = jnp.asarray(step, _wide(x).dtype)
    step = step.reshape((1,) * (x.ndim - step.ndim) + step.shape)
    return Grid(step, jnp.zeros_like(step))


def _in_blocks(
    x: Float[Array, "..."], fmt: BlockFormat, axis: int, key: Array | None
) -> Float[Array, "..."]:
    """`x` in blocks along an axis, the last of them filled up with zeros."""
    axis, length = axis % x.ndim, x.shape[axis]
    x = _wide(x)
    missing = -length % fmt.size
    blocks = jnp.pad(x, [(0, missing if i == axis else 0) for i in range(x.ndim)])
    blocks, inner = split_axis(blocks, axis, fmt.size)
    step = block_step(blocks, fmt, inner)
    rounded = round_to(within(blocks, fmt.element, step) / step, fmt.element, key) * step
    return jax.lax.slice_in_dim(rounded.reshape(_joined(blocks.shape, inner)), 0, length, axis=axis)


def within(
    x: Float[Array, "..."], element: IntFormat | FloatFormat, step: Float[Array, "..."]
) -> Float[Array, "..."]:
    """Numbers of a block cut to what its elements reach, on both sides alike."""
    limit = element.max if isinstance(element, FloatFormat) else element.highest
    return jnp.clip(x, -limit * step, limit * step)


def block_step(blocks: Float[Array, "..."], fmt: BlockFormat, axis: int) -> Float[Array, "..."]:
    """What 1 stands for among the elements of each block along `axis`, which is kept as 1."""
    size, element = jnp.abs(blocks).max(axis, keepdims=True), fmt.element
    if fmt.scale is None:
        return _power_of_two(size, element)
    top = element.max if isinstance(element, FloatFormat) else element.highest
    whole = _nonzero(size.max() / (top * fmt.scale.max))
    return _nonzero(round_to(size / top / whole, fmt.scale) * whole)


def _power_of_two(
    size: Float[Array, "..."], element: IntFormat | FloatFormat
) -> Float[Array, "..."]:
    """The shared scale of a block whose greatest number is `size`, as code 1 of its elements.

    Its exponent is that of `size` less that of the greatest element; elements above that are cut.
    Integers stand for multiples of 2^(2 - bits), of which the greatest has exponent 0.
    Source: OCP Microscaling Formats 1.0, Section 6.3.
    """
    exponent = jnp.frexp(size)[1] - 1
    if isinstance(element, IntFormat):
        exponent = exponent - (element.bits - 2)
    else:
        exponent = exponent - int(np.floor(np.log2(element.max)))
    # E8M0 has the exponents -127 to 127; 2^-127 is subnormal in float32, which is taken for 0.
    step = jnp.ldexp(jnp.ones_like(size), jnp.clip(exponent, -126, 127))
    step = jnp.where(size == 0, 1, step)
    return jnp.where(jnp.isfinite(size), step, jnp.nan)  # as the other formats have it


def _joined(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    return (*shape[: axis - 1], shape[axis - 1] * shape[axis], *shape[axis + 1 :])
