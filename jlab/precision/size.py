"""Bytes of a quantised model, as `jlab.hub.save_packed` stores it where it can."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from jlab.nn.formats import BlockFormat, Format, IntFormat
from jlab.nn.quantized import Quantized


class Size(NamedTuple):
    """What a model takes."""

    packed: int  # bytes, all parameters
    dense: int  # bytes without quantisation, in the parameters' own types
    bits_per_weight: float  # of the quantised kernels, their grids included


def model_size(params: Mapping[str, Any], kernels: Mapping[str, Quantized], fmt: Format) -> Size:
    """The size of a model of these parameters, of which some kernels are quantised.

    Codes take the format's bits, steps their type's (of a block format those of its scales), zero
    points of unsigned codes as much as a code; an order of groups the bits that tell them apart.
    """
    width = np.dtype(jax.tree.leaves(params)[0].dtype).itemsize  # one type for all kernels
    dense = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    weights = sum(q.codes.size for q in kernels.values())
    packed = sum(_kernel_bytes(q, fmt) for q in kernels.values())
    bits = 8 * packed / max(weights, 1)
    return Size(dense - weights * width + packed, dense, bits)


def _kernel_bytes(q: Quantized, fmt: Format) -> int:
    step = 8 * q.step.dtype.itemsize
    if isinstance(fmt, BlockFormat):
        step = 8 if fmt.scale is None else fmt.scale.bits
    parts = [(q.codes.size, q.fmt.bits), (q.step.size, step)]
    if isinstance(q.fmt, IntFormat) and not q.fmt.signed:
        parts.append((q.zero.size, q.fmt.bits))
    if np.any(np.diff(q.group) < 0):
        parts.append((q.group.size, (len(q.step) - 1).bit_length()))
    return sum(-(-count * bits // 8) for count, bits in parts)
