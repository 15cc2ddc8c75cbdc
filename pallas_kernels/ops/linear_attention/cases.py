"""Linear attention with one decay per head at the sizes of the released benchmark."""

import jax
import jax.numpy as jnp
from jaxtyping import Array

from pallas_kernels import peers
from pallas_kernels.case import Case, Shapes, array, gradient, normal
from pallas_kernels.ops.linear_attention import linear_attention
from pallas_kernels.ops.linear_attention.grad import CHUNK


def _lightning(q: Array, k: Array, v: Array, slopes: Array, **settings: object) -> Array:
    return linear_attention(q, k, v, slopes=slopes, **settings)


def _arrays(batch: int, length: int, heads: int, dim: int) -> Shapes:
    return (*[array(batch, length, heads, dim)] * 3, array(heads, dtype=jnp.float32))


def _draw(key: Array, shapes: Shapes) -> tuple[Array, ...]:
    """Standard normals, and the slopes of the paper: 2^(-8 h / heads) for head h = 1, 2 ..."""
    q, k, v, _, *rest = normal(key, shapes)
    heads = shapes[3].shape[0]
    return q, k, v, 2.0 ** (-8 * jnp.arange(1, heads + 1, dtype=jnp.float32) / heads), *rest


def _flops(batch: int, length: int, heads: int, dim: int) -> float:
    """Scores and weighted values in a chunk, reading the state, adding to it."""
    return batch * heads * length * 2 * (2 * CHUNK * dim + 2 * dim**2)


def _with_cotangent(shapes: Shapes) -> Shapes:
    return (*shapes, shapes[2])


def _forward(length: int, dim: int, **options: object) -> Case:
    sizes = (16, length, 16, dim)
    return Case(
        f"linear_attention/decay N={length} D={dim}",
        _lightning,
        _arrays(*sizes),
        flops=_flops(*sizes),
        small=_arrays(1, CHUNK, 1 if dim > 64 else 2, dim),
        check=_arrays(1, length, 2, dim),
        peers=peers.linear_attention(),
        draw=_draw,
        **options,
    )


def _gradient(length: int, dim: int) -> Case:
    sizes = (16, length, 16, dim)
    return Case(
        f"linear_attention/decay gradient N={length} D={dim}",
        gradient(_lightning, 3),
        _with_cotangent(_arrays(*sizes)),
        flops=3 * _flops(*sizes),  # three scans: with constant decays they need no forward one
        small=_with_cotangent(_arrays(1, CHUNK, 1 if dim > 64 else 2, dim)),
        check=_with_cotangent(_arrays(1, length, 2, dim)),
        draw=_draw,
    )


def _varying(q: Array, k: Array, v: Array, log_decay: Array, **settings: object) -> Array:
    return linear_attention(q, k, v, log_decay=-jnp.abs(log_decay), **settings)


def _varying_arrays(batch: int, length: int, heads: int, dim: int) -> Shapes:
    tokens = _arrays(batch, length, heads, dim)[:3]
    return (*tokens, jax.ShapeDtypeStruct((batch, length, heads), jnp.float32), tokens[2])


CASES = (
    _forward(1024, 128),
    _forward(4096, 128, backends=("mosaic_gpu", "triton")),
    _forward(16384, 128),
    _forward(4096, 64),
    _gradient(4096, 128),
    _gradient(4096, 64),
    Case(
        "linear_attention/decay per token gradient N=4096 D=128",
        gradient(_varying, 4),
        _varying_arrays(16, 4096, 16, 128),
        flops=4 * _flops(16, 4096, 16, 128),
        small=_varying_arrays(1, CHUNK, 1, 128),
        check=_varying_arrays(1, 4096, 2, 128),
    ),
)
