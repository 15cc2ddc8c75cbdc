"""Rotary embedding at the sizes of the released benchmark."""

import jax.numpy as jnp

from pallas_kernels import peers
from pallas_kernels.case import Case, Shapes, array, gradient
from pallas_kernels.ops.rotary import rotary


def _arrays(batch: int, length: int, heads: int, dim: int, half: int) -> Shapes:
    table = array(length, half, dtype=jnp.float32)
    return array(batch, length, heads, dim), table, table


def _case(length: int, dim: int, half: int, **options: object) -> Case:
    part = "" if dim == 2 * half else f" of which {2 * half}"
    return Case(
        f"rotary/forward N={length} D={dim}{part}",
        rotary,
        _arrays(16, length, 16, dim, half),
        flops=6 * 16 * length * 16 * half,  # four products and two sums for a pair
        small=_arrays(1, 64, 1, dim, half),
        peers=peers.rotary(),
        **options,
    )


_BOTH = {"backends": ("mosaic_gpu", "triton")}

CASES = (
    _case(1024, 128, 64),
    _case(4096, 128, 64, **_BOTH),
    _case(16384, 128, 64),
    _case(4096, 64, 32),
    _case(4096, 128, 32),
    Case(
        "rotary/gradient N=4096 D=128",
        gradient(rotary, 1),  # needs no forward pass: it is linear
        (*_arrays(16, 4096, 16, 128, 64), array(16, 4096, 16, 128)),
        flops=6 * 16 * 4096 * 16 * 64,
        small=(*_arrays(1, 64, 1, 128, 64), array(1, 64, 1, 128)),
        **_BOTH,
    ),
)
