"""Grids of the groups of a kernel's inputs, and number formats whose bits are data to a program."""

from dataclasses import dataclass
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jlab.nn.formats import BlockFormat, FloatFormat, Format, IntFormat
from jlab.nn.quant import Grid, block_step, decode, encode, make_grid, split_axis

SHRINKS = 80  # steps tried by the search: 1, 0.99, ... 0.21 of that of the whole range
_NORM = 2.4  # exponent of the error that the search makes least


@partial(jax.tree_util.register_dataclass, data_fields=["lowest", "highest"], meta_fields=["grid"])
@dataclass(frozen=True)
class Levels:
    """An integer format with its ends as data: one program then serves every number of bits."""

    lowest: Float[Array, ""]
    highest: Float[Array, ""]
    grid: str


Rounding = tuple[Levels | None, FloatFormat | None]  # one of them; the second is static


def as_data(fmt: IntFormat | FloatFormat, dtype: jnp.dtype) -> Rounding:
    """A format as an argument of a compiled function."""
    if isinstance(fmt, FloatFormat):
        return None, fmt
    return Levels(jnp.asarray(fmt.lowest, dtype), jnp.asarray(fmt.highest, dtype), fmt.grid), None


def group_grids(
    weights: Float[Array, "inputs outputs"],
    fmt: Levels | IntFormat | FloatFormat | BlockFormat,
    group_size: int | None,
    search: bool = False,
) -> Grid:
    """The grids of groups of neighbouring inputs, one per output: arrays `[groups, outputs]`.

    Args:
      weights: a kernel.
      fmt: a block format has a size of its own; weights must then be a whole number of blocks.
      group_size: None: all inputs are one group.
      search: shrink each grid for the least sum of |error|^2.4, as GPTQ's code can.

    Source: `Quantizer.find_params` of the released code of GPTQ (mse: grid 100, maxshrink 0.8).
    """
    size = group_size or len(weights)
    groups, _ = split_axis(weights, 0, size)  # [groups, size, outputs]
    if isinstance(fmt, BlockFormat):
        step = block_step(groups, fmt, 1)
        grid = Grid(step, jnp.zeros_like(step))
    else:
        grid = make_grid(groups, fmt, 1)
    if search:
        grid = _least_error(groups, fmt, grid)
    return Grid(grid.step[:, 0], grid.zero[:, 0])


def _least_error(
    x: Float[Array, "groups size outputs"], fmt: Levels | IntFormat | FloatFormat, grid: Grid
) -> Grid:
    """The best of the grids with shorter steps; the zero point stays where the range has it."""

    def shorter(i: Int[Array, ""], best: tuple[Array, Array]) -> tuple[Array, Array]:
        step, least = best
        tried = Grid(grid.step * (1 - i / 100).astype(step.dtype), grid.zero)
        error = jnp.abs(decode(encode(x, fmt, tried), tried) - x) ** _NORM
        error = error.sum(1, keepdims=True)
        return jnp.where(error < least, tried.step, step), jnp.minimum(error, least)

    start = grid.step, jnp.full_like(grid.step, jnp.inf)
    step, _ = jax.lax.fori_loop(0, SHRINKS, shorter, start)
    return Grid(step, grid.zero)


def group_numbers(inputs: int, group_size: int | None) -> Int[Array, "inputs"]:
    """The group of each input, where groups are neighbours; the last one may be short."""
    return jnp.arange(inputs, dtype=jnp.int32) // (group_size or inputs)


def at_inputs(grids: Grid, group: Int[Array, "inputs"]) -> Grid:
    """The grid of every weight: arrays `[inputs, outputs]`."""
    return Grid(grids.step[group], grids.zero[group])


def check(
    weights: Float[Array, "inputs outputs"],
    fmt: Format,
    group_size: int | None,
    blocks: Literal["allowed", "refused"] = "refused",
) -> None:
    """Refuses weights, formats and groups that do not go together.

    Raises:
      TypeError, ValueError: one line.
    """
    formats = (IntFormat, FloatFormat, *((BlockFormat,) if blocks == "allowed" else ()))
    if not isinstance(fmt, formats):
        raise TypeError(f"fmt must be one of {', '.join(f.__name__ for f in formats)}; got {fmt!r}")
    if weights.ndim != 2 or 0 in weights.shape:
        raise ValueError(f"weights must have shape [inputs, outputs]; got {weights.shape}")
    if not jnp.issubdtype(weights.dtype, jnp.floating):
        raise ValueError(f"weights must be floating-point numbers; got {weights.dtype.name}")
    if group_size is not None:
        if isinstance(fmt, BlockFormat):
            raise ValueError(f"group_size must be None where fmt is {fmt}; got {group_size}")
        if group_size < 1 or len(weights) % group_size:
            raise ValueError(
                f"group_size must divide the {len(weights)} inputs, or be None for one group of"
                f" all; got {group_size}"
            )
    check_finite("weights", weights)


def check_finite(name: str, x: Float[Array, "..."]) -> None:
    """Refuses NaN and infinity, where the values are known: not inside a compiled function.

    Raises:
      ValueError: one line.
    """
    if not isinstance(x, jax.core.Tracer) and not _all_finite(x):
        raise ValueError(f"{name} must be finite; got NaN or infinity")


@jax.jit
def _all_finite(x: Float[Array, "..."]) -> Bool[Array, ""]:
    return jnp.isfinite(x).all()
