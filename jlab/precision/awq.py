r"""AWQ: inputs that are large get finer grids, and ranges are cut where that pays.

The weights of input k are multiplied by s_k before they are rounded, and the input divided by it:
rounding then costs less where the input is large. How much is found by search, and so is how far
the range of each group may shrink. What divides the inputs is put into what produces them
(`jlab.precision.fold`), so that the model stays what it was.

Source: Lin et al. 2023, arXiv 2306.00978, Equations 4 and 5; search and clipping as in the
released code, mit-han-lab/llm-awq. Symbols: W -> weights.T, s_X -> mean |x|, alpha -> ratio,
s -> scales[inputs].
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jlab.nn.formats import FloatFormat, IntFormat
from jlab.nn.quant import Grid
from jlab.nn.quantized import Quantized, dequantize, quantized
from jlab.precision.awq_search import (
    Error,
    Settings,
    codes_of,
    cut_at,
    search_clips,
    search_scales,
)
from jlab.precision.calibration import Moments, read_moments
from jlab.precision.grids import Levels, as_data, check


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
    settings = Settings(number, group_size, settle_ties)
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


@partial(jax.jit, static_argnums=3)
def _encoded(
    weights: Float[Array, "inputs outputs"],
    limits: Float[Array, "groups outputs"],
    levels: Levels | None,
    settings: Settings,
) -> tuple[Array, Grid, Int[Array, "inputs"]]:
    size = settings.group_size or len(weights)
    return codes_of(cut_at(weights, limits, size), levels, settings)


@jax.jit
def _divided(moments: Moments, scales: Float[Array, "inputs"]) -> Moments:
    """The sums over inputs that are divided by scales."""
    second = moments.second / scales[:, None] / scales[None]
    return Moments(moments.rows, moments.absolute / scales, second)
