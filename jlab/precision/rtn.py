"""Round to nearest: every weight becomes the closest number of its grid, and no data is needed.

What the other methods are compared with, and what they fall back to.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jlab.nn.formats import BlockFormat, Format
from jlab.nn.quant import Grid, encode, within
from jlab.nn.quantized import Quantized, dequantize, quantized
from jlab.precision.calibration import Moments
from jlab.precision.grids import at_inputs, check, group_grids, group_numbers


def rtn(
    weights: Float[Array, "inputs outputs"],
    calibration: Float[Array, "rows inputs"] | Moments | None,
    fmt: Format,
    group_size: int | None = None,
    *,
    search: bool = False,
) -> tuple[Float[Array, "inputs outputs"], Quantized, dict[str, Array]]:
    """Quantise a kernel by rounding to nearest.

    Args:
      weights: kernel, `[inputs, outputs]`.
      calibration: not read; the methods share their first four arguments.
      fmt: number format. Blocks lie along the inputs; the last of them may be short.
      group_size: inputs that share a grid, one per output; None: all of them.
      search: shrink the grids for the least error of the weights (`grids.group_grids`).

    Returns:
      What the kernel becomes, in its type; its codes; and nothing else that there is to say.

    Raises:
      TypeError, ValueError: weights or groups that the format cannot take; one line.

    Source: Kumar et al. 2024, arXiv 2411.04330, Appendix F.

    Example:
      >>> from jlab.nn.formats import IntFormat
      >>> kernel = jnp.array([[0.1, 3.0], [-0.7, 1.4], [0.33, -7.0]])
      >>> rounded, q, _ = rtn(kernel, None, IntFormat(4))
      >>> q.codes.tolist(), rounded[:, 1].tolist()
      ([[1, 3], [-7, 1], [3, -7]], [3.0, 1.0, -7.0])
    """
    del calibration
    check(weights, fmt, group_size, blocks="allowed")
    if search and isinstance(fmt, BlockFormat):
        raise ValueError(f"search must be false where fmt is {fmt}")
    group, codes, grids = _rtn(weights, fmt, group_size, search)
    q = quantized(codes, grids, group, fmt.element if isinstance(fmt, BlockFormat) else fmt)
    return dequantize(q, weights.dtype), q, {}


@partial(jax.jit, static_argnums=(1, 2, 3))
def _rtn(weights: Array, fmt: Format, group_size: int | None, search: bool) -> tuple:
    weights = weights.astype(jnp.promote_types(weights.dtype, jnp.float32))
    inputs, element = len(weights), fmt
    if isinstance(fmt, BlockFormat):
        group_size, element = fmt.size, fmt.element
        weights = jnp.pad(weights, ((0, -inputs % group_size), (0, 0)))
    grids: Grid = group_grids(weights, fmt, group_size, search)
    group = group_numbers(inputs, group_size)
    grid, weights = at_inputs(grids, group), weights[:inputs]
    if isinstance(fmt, BlockFormat):
        weights = within(weights, element, grid.step)
    return group, encode(weights, element, grid), grids
