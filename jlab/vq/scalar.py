"""Finite scalar quantisation: each channel is rounded to a few levels; no codebook is learned."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from jlab.vq.axes import ALONE, Axes
from jlab.vq.checks import require, require_not_negative
from jlab.vq.dtypes import by_channel, wide
from jlab.vq.estimators import straight_through
from jlab.vq.metrics import code_use, distortion
from jlab.vq.quantizer import Quantized, Quantizer, codes_of, finish, given_ids, tokens_of


def fsq(
    levels: Sequence[int],
    *,
    symmetric: bool = False,
    eps: float = 1e-3,
    axes: Axes = ALONE,
) -> Quantizer:
    """Bounds every channel by tanh and rounds it to one of its levels, straight through.

    Channel i has levels[i] values in [-1, 1]; `ids` number their combinations, the first channel
    fastest. No losses.

    Args:
      levels: of each channel, at least 2; their product is the number of codes.
      symmetric: levels at equal distances from -1 to 1 ("preserve symmetry"), which two levels
        need; otherwise an even number of levels leaves out the outermost on one side.
      eps: how far beyond the outer levels tanh is stretched.
      axes: what is split over devices inside `shard_map`; tokens alone.

    Raises:
      ValueError: fewer levels than two, or more codes than 2^31 - 1.

    Source: Mentzer et al., "Finite Scalar Quantization", arXiv 2309.15505, Section 3.1 and
    Appendix A.1.

    Example:
      >>> import jax.numpy as jnp
      >>> quantizer = fsq([3, 3])
      >>> found, _ = quantizer.quantize({}, {}, jnp.array([[-3.0, 0.2]]))
      >>> found.out.tolist(), found.ids.tolist()
      ([[-1.0, 0.0]], [3])
    """
    check_levels(levels)
    require_not_negative(eps=eps)
    steps, dim, size = np.array(levels), len(levels), math.prod(levels)
    basis, half_width = np.cumprod([1, *levels[:-1]]), steps // 2

    def bounded(z: Float[Array, "n d"]) -> tuple[Array, Array]:
        """The channels in units of a level, and the same at the nearest level."""
        if symmetric:
            inside = by_channel((steps - 1) / 2, z) * (jnp.tanh(z) + 1) + 0.5
            return inside, jnp.floor(inside)
        half = (steps - 1) * (1 + eps) / 2
        offset = np.where(steps % 2, 0.0, 0.5)
        bent = jnp.tanh(z + by_channel(np.arctanh(offset / half), z))
        inside = bent * by_channel(half, z) - by_channel(offset, z)
        # From 1002 levels on, `eps` of their number is more than half a level.
        last = by_channel(steps - 1 - half_width, z)
        return inside, jnp.clip(jnp.round(inside), -by_channel(half_width, z), last)

    def code(level: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
        """The value in [-1, 1] of a level."""
        if symmetric:
            return level * by_channel(2 / (steps - 1), level) - 1
        return level / by_channel(half_width, level)

    def quantize(
        params: PyTree,
        state: PyTree,
        x: Float[Array, "*batch d"],
        mask: Bool[Array, "*batch"] | None = None,
        key: Array | None = None,
        train: bool = False,
        ids: Int[Array, "*batch"] | None = None,
    ) -> tuple[Quantized, PyTree]:
        read = tokens_of(x, mask, dim)
        inside, level = bounded(wide(read.tokens))
        e = code(inside - 0.5 if symmetric else inside)
        if ids is None:
            digits = (level if symmetric else level + by_channel(half_width, level)).astype(int)
            chosen, q = (digits * by_channel(basis, digits)).sum(-1), code(level)
        else:
            chosen = given_ids(ids, size, read.batch).reshape(-1)
            q = decode(params, state, chosen).astype(e.dtype)
        out, chosen = finish(read, straight_through(e, q).astype(x.dtype), chosen)
        metrics = distortion(*jax.lax.stop_gradient((e, q)), read.mask, axes)
        metrics |= code_use(chosen.reshape(-1), size, read.mask, axes)
        return Quantized(out, chosen, {}, metrics, None), state

    def read_back(ids: Int[Array, "*batch"]) -> Float[Array, "*batch d"]:
        ids = ids[..., None]
        digits = ids // by_channel(basis, ids) % by_channel(steps, ids)
        return code((digits if symmetric else digits - by_channel(half_width, ids)).astype(float))

    def decode(params: PyTree, state: PyTree, ids: Int[Array, "*batch"]) -> Array:
        return codes_of(read_back, ids, size)

    def update(params: PyTree, state: PyTree, assigned: None, key: Array | None) -> PyTree:
        return state

    return Quantizer(lambda key: ({}, {}), quantize, update, decode, dim, size)


def check_levels(levels: Sequence[int], name: str = "levels") -> None:
    """Refuses levels that are no codebook, by the name of the setting."""
    given = list(levels)
    require(bool(given) and min(given) >= 2, name, given, ">= 2, one for each channel")
    require(math.prod(given) < 2**31, name, given, "of a product under 2^31, the number of codes")
