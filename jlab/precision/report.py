"""What quantisation has done to each linear map of a model."""

from collections.abc import Sequence
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jlab.precision.calibration import Moments, output_errors


@dataclass(frozen=True)
class MapReport:
    """What became of one linear map.

    Errors are the squared change of its outputs on the calibration text, by their mean square;
    None where there was no text.
    """

    name: str  # "layers.3.attn.q_proj"
    rtn_error: float | None  # by rounding to nearest
    error: float | None  # by the method
    damping: float | None = None  # of GPTQ: the share that was used
    fallback: bool = False  # of GPTQ: to rounding to nearest
    scaled: bool = False  # of AWQ: whether there is something that its scales could go into


def relative_errors(
    old: Float[Array, "inputs outputs"],
    new: Sequence[Float[Array, "inputs outputs"]],
    moments: Moments,
    widths: Sequence[int],
) -> list[tuple[float, ...]]:
    """Of each of several maps side by side, the error that each of some new kernels makes."""
    wide = jnp.promote_types(old.dtype, jnp.float32)
    old, second = old.astype(wide), moments.second.astype(wide)
    sums = [output_errors(x, second) for x in (old, *(x.astype(wide) - old for x in new))]
    starts = np.cumsum([0, *widths])[:-1]
    sizes, *errors = (np.add.reduceat(np.asarray(x, np.float64), starts) for x in sums)
    # Outputs that are all 0 have no relative error: they stay what they are.
    return [
        tuple(float(x[m] / sizes[m]) if sizes[m] else 0.0 for x in errors)
        for m in range(len(widths))
    ]


def line_of(n: int, layers: int, report: Sequence[MapReport]) -> str:
    """A line about the maps of layer n."""
    errors = [f"{map_.name.split('.')[-1]} {map_.error:.2e}" for map_ in report if map_.error]
    fallen = [map_.name.split(".")[-1] for map_ in report if map_.fallback]
    said = f"layer {n + 1}/{layers}: {', '.join(errors) or 'rounded'}"
    return said + (f"; no damping is enough for {', '.join(fallen)}: rounded" if fallen else "")
