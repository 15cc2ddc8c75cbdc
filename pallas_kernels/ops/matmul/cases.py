"""Matrix products of the paper's tables: squares, and short sums where starting a block counts."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from pallas_kernels.case import Case, Peer, Shapes, array, gradient
from pallas_kernels.ops.matmul import matmul, matmul_fp8

_SMALL = (array(128, 64), array(64, 64))
_FP8 = jnp.float8_e4m3fn


def _square(m: int, k: int, n: int) -> dict[str, Any]:
    return {"args": (array(m, k), array(k, n)), "flops": 2 * m * k * n, "small": _SMALL}


def _xla() -> Any:
    return lambda a, b: jnp.matmul(a, b)


def _jax_hopper() -> Any:
    """jax's own warp-specialised kernel, at the tile sizes of its heuristics for large squares."""
    from jax.experimental.pallas.ops.gpu import hopper_matmul_mgpu as peer

    config = peer.TuningConfig(
        tile_m=64, tile_n=256, tile_k=64, max_concurrent_steps=3, epi_tile_n=64, epi_tile_m=None
    )
    return lambda a, b: peer.matmul(a, b, config)


def _torch() -> Any:
    import torch

    return torch.matmul


_PEERS = {"XLA": Peer(_xla), "jax Pallas": Peer(_jax_hopper), "torch": Peer(_torch, "torch")}


def _fused(a: Array, b: Array, bias: Array, gate: Array, residual: Array, **settings: Any) -> Array:
    return matmul(a, b, bias=bias, activation="gelu", gate=gate, residual=residual, **settings)


def _fused_arrays(m: int, k: int, n: int) -> Shapes:
    return array(m, k), array(k, n), array(n), array(n), array(m, n)


def _quantized(key: Array, shapes: Shapes) -> tuple[Array, ...]:
    """8-bit factors over their whole range, scales of a tenth to one."""
    keys = jax.random.split(key, 4)
    a, b = (
        (100 * jax.random.normal(k, s.shape)).clip(-448, 448).astype(s.dtype)
        for k, s in zip(keys, shapes[:2], strict=False)
    )
    scales = (
        jax.random.uniform(k, s.shape, minval=0.1)
        for k, s in zip(keys[2:], shapes[2:], strict=True)
    )
    return a, b, *scales


def _eight_bit(m: int, k: int, n: int) -> Shapes:
    float32 = partial(array, dtype=jnp.float32)
    return array(m, k, dtype=_FP8), array(k, n, dtype=_FP8), float32(m), float32(n)


CASES = (
    *(
        Case(f"matmul/{n}x{n}x{n}", matmul, **_square(n, n, n), peers=_PEERS)
        for n in (4096, 8192, 16384)
    ),
    *(
        Case(f"matmul/4096x{k}x4096", matmul, **_square(4096, k, 4096), peers=_PEERS)
        for k in (64, 256, 1024)
    ),
    Case(
        "matmul/gelu gate residual 8192",
        _fused,
        _fused_arrays(8192, 8192, 8192),
        flops=2 * 8192**3,
        small=_fused_arrays(128, 64, 64),
    ),
    Case(
        "matmul/gradient 4096",
        gradient(matmul, 2),
        (array(4096, 4096),) * 3,
        flops=6 * 4096**3,
        small=(array(128, 128),) * 3,
    ),
    Case(
        "matmul/fp8 8192",
        matmul_fp8,
        _eight_bit(8192, 8192, 8192),
        flops=2 * 8192**3,
        small=_eight_bit(128, 128, 64),
        draw=_quantized,
    ),
)
