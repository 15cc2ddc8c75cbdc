r"""AWQ: inputs that are large get finer grids, and ranges are cut where that pays.

The weights of input k are multiplied by s_k before they are rounded, and the input divided by it:
rounding then costs less where the input is large. How much is found by search, and so is how far
the range of each group may shrink. What divides the inputs is put into what produces them
(`jlab.precision.fold`), so that the model stays what it was.

Source: Lin et al. 2023, arXiv 2306.00978, Equations 4 and 5; search and clipping as in the
released code, mit-han-lab/llm-awq. Symbols: W -> weights.T, s_X -> mean |x|, alpha -> ratio,
s -> scales[inputs].
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jlab.nn.formats import FloatFormat, IntFormat
from jlab.nn.quant import Grid, decode, encode
from jlab.nn.quantized import Quantized, dequantize, quantized
from jlab.precision.calibration import Moments, output_errors, read_moments
from jlab.precision.grids import Levels, as_data, at_inputs, check, group_grids, group_numbers

RATIOS = 20  # exponents tried: 0, 1/20, ... 19/20
CLIPS = 10  # shares of the range tried: 1, 0.95, ... 0.55
_TIE = 1e-6

Error = Callable[[Float[Array, "inputs outputs"]], Float[Array, ""]]


class _Settings(NamedTuple):
    """What decides the program, besides shapes."""

    number: FloatFormat | None
    group_size: int | None
    settle_ties: bool


def awq(
    weights: Float[Array, "inputs outputs"],
    calibration: Float[Array, "rows inputs"] | Moments,
    fmt: IntFormat | FloatFormat,
    group_size: int | None = None,
    *,
    scale: bool = True,
    clip: bool | Bool[Array, "outputs"] = True,
    settle_ties: bool = True,
    error: Error | None = None,
) -> tuple[Float[Array, "inputs outputs"], Quantized, dict[str, Array]]:
    """Quantise a kernel so that its outputs on the calibration inputs change little.

    Maps that read the same inputs share their scales: they are one kernel, side by side.

    Args:
      weights: kernel, `[inputs, outputs]`.
      calibration: rows of inputs, or sums over them (`moments_init`, `add_rows`).
      fmt: number format; the paper's is `IntFormat(bits, "awq_asym")`.
      group_size: inputs that share a grid, one per output; None: all of them.
      scale: search scales; otherwise they are 1.
      clip: search ranges, for all outputs or for some: the paper leaves queries and keys out.
      settle_ties: a zero point of the grid `awq_asym` is rounded a little upwards. That of a range
        which is cut at both ends is a tie, which the last bit of a division would decide.
      error: what the search of scales makes least, of the kernel that results; None: the squared
        change of this map's outputs. The released code measures attention or the MLP as a whole.

    Returns:
      What the kernel becomes on inputs that are not divided, in its type; the codes of the kernel
      times `scales`; `scales[inputs]`; `ratio` and `losses[20]` of their search (without a search
      1, 0 and none); `clip[groups, outputs]`: the greatest number that the scaled kernel keeps.

    Raises:
      TypeError, ValueError: one line that names the argument.

    Example:
      >>> x = jax.random.normal(jax.random.key(0), (64, 8)) * jnp.array([[9.0, *[1.0] * 7]])
      >>> kernel = jax.random.normal(jax.random.key(1), (8, 4))
      >>> rounded, q, found = awq(kernel, x, IntFormat(3, "awq_asym"))
      >>> bool(found["scales"][0] > found["scales"][1:].max())
      True
    """
    check(weights, fmt, group_size)
    dtype = jnp.promote_types(weights.dtype, jnp.float32)
    moments = read_moments(calibration, len(weights), dtype)
    wide, (levels, number) = weights.astype(dtype), as_data(fmt, dtype)
    settings = _Settings(number, group_size, settle_ties)
    found = {
        "scales": jnp.ones(len(weights), dtype),
        "ratio": jnp.zeros((), dtype),
        "losses": jnp.zeros(0, dtype),
    }
    if scale:
        found = search_scales(wide, moments, levels, settings, error)
    scales = found["scales"]
    scaled, moments = wide * scales[:, None], _divided(moments, scales)
    clipped = jnp.broadcast_to(jnp.asarray(clip), wide.shape[1])
    limits = search_clips(scaled, moments, levels, settings, clipped)
    codes, grids, group = _encoded(scaled, limits, levels, settings)
    q = quantized(codes, grids, group, fmt)
    rounded = dequantize(q) / scales[:, None]
    return rounded.astype(weights.dtype), q, {**found, "clip": limits}


@partial(jax.jit, static_argnums=(3, 4))
def search_scales(
    weights: Float[Array, "inputs outputs"],
    moments: Moments,
    levels: Levels | None,
    settings: _Settings,
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
        codes, grids, group = _codes(weights * scales, levels, settings)
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
    settings: _Settings,
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
        codes, grids, group = _codes(_cut(weights, tried, size), levels, settings)
        rounded = decode(codes, at_inputs(grids, group)).reshape(groups.shape)
        error = jax.vmap(output_errors)(rounded - groups, second)
        better = (error < least) & clipped[None]
        return jnp.where(better, tried, limits), jnp.where(better, error, least)

    start = widest, jnp.full_like(widest, jnp.inf)
    return jax.lax.fori_loop(0, CLIPS, narrower, start)[0]


@partial(jax.jit, static_argnums=3)
def _encoded(
    weights: Float[Array, "inputs outputs"],
    limits: Float[Array, "groups outputs"],
    levels: Levels | None,
    settings: _Settings,
) -> tuple[Array, Grid, Int[Array, "inputs"]]:
    size = settings.group_size or len(weights)
    return _codes(_cut(weights, limits, size), levels, settings)


def _cut(
    weights: Float[Array, "inputs outputs"], limits: Float[Array, "groups outputs"], size: int
) -> Float[Array, "inputs outputs"]:
    limits = limits[group_numbers(len(weights), size)]
    return jnp.clip(weights, -limits, limits)


def _codes(
    weights: Float[Array, "inputs outputs"], levels: Levels | None, settings: _Settings
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


@jax.jit
def _divided(moments: Moments, scales: Float[Array, "inputs"]) -> Moments:
    """The sums over inputs that are divided by scales."""
    second = moments.second / scales[:, None] / scales[None]
    return Moments(moments.rows, moments.absolute / scales, second)
