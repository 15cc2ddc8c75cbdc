"""The two searches of AWQ: for the scales of inputs, and for the ranges of groups.

Source: the released code of Lin et al. 2023, arXiv 2306.00978, mit-han-lab/llm-awq.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jlab.nn.formats import FloatFormat
from jlab.nn.quant import Grid, decode, encode
from jlab.precision.calibration import Moments, output_errors
from jlab.precision.grids import Levels, at_inputs, group_grids, group_numbers

RATIOS = 20  # exponents tried: 0, 1/20, ... 19/20
CLIPS = 10  # shares of the range tried: 1, 0.95, ... 0.55
_TIE = 1e-6  # steps; far above the rounding error of a quotient, far below any gain

Error = Callable[[Float[Array, "inputs outputs"]], Float[Array, ""]]


class Settings(NamedTuple):
    """What decides the program, besides shapes."""

    number: FloatFormat | None
    group_size: int | None
    settle_ties: bool


@partial(jax.jit, static_argnums=(3, 4))
def search_scales(
    weights: Float[Array, "inputs outputs"],
    moments: Moments,
    levels: Levels | None,
    settings: Settings,
    error: Error | None = None,
) -> dict[str, Array]:
    """The scales with the least error, and the error of each ratio.

    Source: `auto_scale.py` of the released code, `_search_module_scale`.
    """
    sizes = moments.absolute / moments.rows.astype(weights.dtype)

    def scales_of(ratio: Float[Array, ""]) -> Float[Array, "inputs"]:
        scales = jnp.maximum(sizes**ratio, 1e-4)
        return scales / jnp.sqrt(scales.max() * scales.min())

    def loss(ratio: Float[Array, ""]) -> Float[Array, ""]:
        scales = scales_of(ratio)[:, None]
        codes, grids, group = codes_of(weights * scales, levels, settings)
        rounded = decode(codes, at_inputs(grids, group)) / scales
        if error is not None:
            return error(rounded)
        count = moments.rows.astype(weights.dtype) * weights.shape[1]
        return output_errors(rounded - weights, moments.second).sum() / count

    ratios = jnp.arange(RATIOS) / jnp.asarray(RATIOS, weights.dtype)
    losses = jax.lax.map(loss, ratios)
    ratio = ratios[jnp.argmin(losses)]  # the first of equals
    return {"scales": scales_of(ratio), "ratio": ratio, "losses": losses}


@partial(jax.jit, static_argnums=3)
def search_clips(
    weights: Float[Array, "inputs outputs"],
    moments: Moments,
    levels: Levels | None,
    settings: Settings,
    clipped: Bool[Array, "outputs"],
) -> Float[Array, "groups outputs"]:
    """For each group and output the greatest number to be kept: the range, or a share of it.

    The error is that of the group's part of the output. Outputs that are not `clipped` keep all.

    Source: `auto_clip.py` of the released code, with every row of the inputs.
    """
    size = settings.group_size or len(weights)
    groups = weights.reshape(-1, size, weights.shape[1])
    second = moments.second.reshape(len(groups), size, len(groups), size)
    second = jnp.moveaxis(jnp.diagonal(second, axis1=0, axis2=2), -1, 0)  # [groups, size, size]
    widest = jnp.abs(groups).max(1)

    def narrower(i: Int[Array, ""], best: tuple[Array, Array]) -> tuple[Array, Array]:
        limits, least = best
        tried = widest * (1 - i / RATIOS).astype(weights.dtype)
        codes, grids, group = codes_of(cut_at(weights, tried, size), levels, settings)
        rounded = decode(codes, at_inputs(grids, group)).reshape(groups.shape)
        error = jax.vmap(output_errors)(rounded - groups, second)
        better = (error < least) & clipped[None]
        return jnp.where(better, tried, limits), jnp.where(better, error, least)

    start = widest, jnp.full_like(widest, jnp.inf)
    return jax.lax.fori_loop(0, CLIPS, narrower, start)[0]


def cut_at(
    weights: Float[Array, "inputs outputs"], limits: Float[Array, "groups outputs"], size: int
) -> Float[Array, "inputs outputs"]:
    """The kernel with every weight cut at the limit of its group."""
    limits = limits[group_numbers(len(weights), size)]
    return jnp.clip(weights, -limits, limits)


def codes_of(
    weights: Float[Array, "inputs outputs"], levels: Levels | None, settings: Settings
) -> tuple[Array, Grid, Int[Array, "inputs"]]:
    """Codes of weights on the grids of their own ranges, the grids, the group of each input."""
    fmt = levels if settings.number is None else settings.number
    size = settings.group_size or len(weights)
    grids = group_grids(weights, fmt, size)
    if settings.settle_ties and levels is not None and levels.grid == "awq_asym":
        low = weights.reshape(-1, size, weights.shape[1]).min(1)
        zero = jnp.round(-low / grids.step + _TIE)
        grids = Grid(grids.step, jnp.clip(zero, 0, levels.highest))
    group = group_numbers(len(weights), size)
    return encode(weights, fmt, at_inputs(grids, group)), grids, group
