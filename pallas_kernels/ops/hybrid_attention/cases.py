"""Hybrid attention at the sizes of the released benchmark, features of 64 columns per sign.

FLOPs are those of the window's two products, over one and a half blocks on average, and of adding
to the far sums and reading them; a gradient counts three and a half times a forward pass, which it
includes.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from pallas_kernels.case import Case, Shapes, array, gradient, normal
from pallas_kernels.ops.hybrid_attention import hybrid_attention

_BLOCK = 64

# The released kernel's epsilon.
_attend = partial(hybrid_attention, window=_BLOCK, eps=1e-6)


def _shapes(batch: int, length: int, heads: int, kv_heads: int, dim: int) -> Shapes:
    queries, keys = array(batch, length, heads, dim), array(batch, length, kv_heads, dim)
    features, factor = array(batch, length, heads, 128), array(heads, dtype=jnp.float32)
    return queries, keys, keys, features, features, factor, factor


def _draw(key: Array, shapes: Shapes) -> tuple[Array, ...]:
    """Standard normals; features that sum to 2, as Hedgehog's; factors near those learned."""
    q, k, v, phi_q, phi_k, _, linear, *rest = normal(key, shapes)
    phi_q, phi_k = (
        2 * jax.nn.softmax(a.astype(jnp.float32)).astype(a.dtype) for a in (phi_q, phi_k)
    )
    return q, k, v, phi_q, phi_k, jnp.full_like(linear, 0.5), jnp.exp(linear), *rest


def _with_cotangent(shapes: Shapes) -> Shapes:
    return (*shapes, shapes[0])


def _cases(length: int, heads: int, kv_heads: int, dim: int) -> tuple[Case, Case]:
    """Forward pass and gradient of one size."""
    batch = 16
    name = f"N={length} H={heads}/{kv_heads} D={dim}"
    flops = batch * heads * length * (4 * 1.5 * _BLOCK * dim + 4 * 128 * dim)
    whole, fewer = _shapes(batch, length, heads, kv_heads, dim), _shapes(1, length, 2, 1, dim)
    small = _shapes(1, 3 * _BLOCK, 1, 1, 64)  # the third block is the first with a far past
    shared: dict[str, Any] = {"draw": _draw}
    forward = Case(f"hybrid_attention/{name}", _attend, whole, flops, small, fewer, **shared)
    backward = Case(
        f"hybrid_attention/gradient {name}",
        gradient(_attend, 5),
        *(_with_cotangent(whole), 3.5 * flops, _with_cotangent(small), _with_cotangent(fewer)),
        **shared,
    )
    return forward, backward


CASES = (
    *_cases(1024, 16, 16, 128),
    *_cases(4096, 16, 16, 128),
    *_cases(16384, 16, 16, 128)[:1],
    *_cases(4096, 16, 4, 128),
    *_cases(4096, 16, 16, 64),
)
