"""Fused norms at the released benchmark's sizes and at those of large language models."""

import jax
from jaxtyping import Array

from pallas_kernels import peers
from pallas_kernels.case import Case, Shapes, array, gradient
from pallas_kernels.ops.layernorm import layernorm, rmsnorm

# Operations on an entry: residual, mean 1, deviation 3, scale, weight, bias; and of the gradient
# the deviation again, g, two sums of products, three terms and two more sums.
_FORWARD, _BACKWARD = 8, 17


def _fused(x: Array, weight: Array, bias: Array, residual: Array, **settings: object) -> tuple:
    return layernorm(x, weight, bias, residual=residual, **settings)


def _dropping(x: Array, weight: Array, bias: Array, residual: Array, **settings: object) -> tuple:
    return _fused(x, weight, bias, residual, dropout=0.1, key=jax.random.key(0), **settings)


def _rms(x: Array, weight: Array, residual: Array, **settings: object) -> tuple:
    return rmsnorm(x, weight, residual=residual, **settings)


def _arrays(batch: int, length: int, dim: int) -> Shapes:
    rows, vector = array(batch, length, dim), array(dim)
    return rows, vector, vector, rows


def _with_cotangents(shapes: Shapes) -> Shapes:
    return (*shapes, shapes[0], shapes[0])


def _forward(length: int, dim: int, **options: object) -> Case:
    sizes = (16, length, dim)
    return Case(
        f"layernorm/residual N={length} D={dim}",
        _fused,
        _arrays(*sizes),
        flops=_FORWARD * 16 * length * dim,
        small=_arrays(1, 4, dim),
        peers=peers.layernorm(),
        **options,
    )


def _gradient(length: int, dim: int, **options: object) -> Case:
    return Case(
        f"layernorm/residual gradient N={length} D={dim}",
        gradient(_fused, 4, 2),
        _with_cotangents(_arrays(16, length, dim)),
        flops=(_FORWARD + _BACKWARD) * 16 * length * dim,
        small=_with_cotangents(_arrays(1, 4, dim)),
        peers=peers.layernorm(gradient=True),
        **options,
    )


_BOTH = {"backends": ("mosaic_gpu", "triton")}
_ROWS, _VECTOR = array(16, 4096, 4096), array(4096)

CASES = (
    _forward(1024, 1024),
    _forward(4096, 1024, **_BOTH),
    _forward(16384, 1024),
    _forward(4096, 768),
    _forward(4096, 4096),
    _gradient(4096, 1024, **_BOTH),
    _gradient(4096, 4096),
    Case(
        "layernorm/dropout residual gradient N=4096 D=1024",
        gradient(_dropping, 4, 2),
        _with_cotangents(_arrays(16, 4096, 1024)),
        flops=(_FORWARD + _BACKWARD) * 16 * 4096 * 1024,
        small=_with_cotangents(_arrays(1, 4, 1024)),
        **_BOTH,
    ),
    Case(
        "layernorm/rmsnorm residual gradient N=4096 D=4096",
        gradient(_rms, 3, 2),
        (_ROWS, _VECTOR, _ROWS, _ROWS, _ROWS),
        flops=(_FORWARD + _BACKWARD) * 16 * 4096 * 4096,
        small=(array(1, 4, 512), array(512), *(array(1, 4, 512),) * 3),
    ),
)
