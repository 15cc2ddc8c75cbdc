"""Mamba-2's scan at the sizes of the released benchmark: one group, heads and states of 64."""

import jax
import jax.numpy as jnp
from jaxtyping import Array

from pallas_kernels import peers
from pallas_kernels.case import Case, Shapes, array, gradient, normal
from pallas_kernels.ops.linear_attention.grad import CHUNK
from pallas_kernels.ops.mamba2 import mamba2


def _arrays(batch: int, length: int, heads: int, n: int = 64) -> Shapes:
    """x, dt, A, B, C."""
    x, bc = array(batch, length, heads, 64), array(batch, length, 1, n)
    dt = array(batch, length, heads, dtype=jnp.float32)
    return x, dt, array(heads, dtype=jnp.float32), bc, bc


def _with_cotangent(shapes: Shapes) -> Shapes:
    return (*shapes, shapes[0])


def _draw(key: Array, shapes: Shapes) -> tuple[Array, ...]:
    """The model's own start: steps from 0.001 to 0.1, evenly in the logarithm; A from -16 to -1."""
    x, dt, A, *rest = normal(key, shapes)
    key_dt, key_A = jax.random.split(key)
    low, high = jnp.log(0.001), jnp.log(0.1)
    dt = jnp.exp(jax.random.uniform(key_dt, dt.shape, minval=low, maxval=high))
    return x, dt, -jax.random.uniform(key_A, A.shape, minval=1, maxval=16), *rest


def _flops(batch: int, length: int, heads: int, n: int = 64) -> float:
    """Scores once per group; weighted values in a chunk, reading the state and adding to it."""
    return batch * length * 2 * (CHUNK * n + heads * (CHUNK * 64 + 2 * n * 64))


def _forward(length: int, n: int, **options: object) -> Case:
    sizes = (16, length, 16, n)
    return Case(
        f"mamba2/forward L={length} N={n}",
        mamba2,
        _arrays(*sizes),
        flops=_flops(*sizes),
        small=_arrays(1, CHUNK, 2, n),
        check=_arrays(1, length, 2, n),
        peers=peers.mamba2(),
        draw=_draw,
        **options,
    )


def _gradient(length: int, n: int) -> Case:
    sizes = (16, length, 16, n)
    return Case(
        f"mamba2/gradient L={length} N={n}",
        gradient(mamba2, 5),
        _with_cotangent(_arrays(*sizes)),
        flops=4 * _flops(*sizes),  # the forward pass and three scans like it
        small=_with_cotangent(_arrays(1, CHUNK, 2, n)),
        check=_with_cotangent(_arrays(1, length, 2, n)),
        draw=_draw,
    )


CASES = (
    _forward(1024, 64),
    _forward(4096, 64, backends=("mosaic_gpu", "triton")),
    _forward(16384, 64),
    _forward(4096, 128),
    _gradient(4096, 64),
    _gradient(4096, 128),
)
