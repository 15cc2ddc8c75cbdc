"""Attention at the sizes of the released benchmark and of the peers' published tables.

FLOPs are those of the two products of every query with every key of its sequence, half of that
under a causal mask; a gradient counts three and a half times a forward pass, which it includes.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from pallas_kernels import peers
from pallas_kernels.case import Case, Shapes, array, gradient, normal
from pallas_kernels.ops.attention import attention


def _shapes(batch: int, length: int, heads: int, kv_heads: int, dim: int) -> Shapes:
    keys = array(batch, length, kv_heads, dim)
    return array(batch, length, heads, dim), keys, keys


def _cases(
    batch: int,
    length: int,
    heads: int,
    kv_heads: int,
    dim: int,
    *,
    causal: bool,
    backends: tuple[str, ...] = ("mosaic_gpu",),
) -> tuple[Case, Case]:
    """Forward pass and gradient of one size."""
    sizes = (batch, length, heads, kv_heads, dim)
    name = f"B={batch} N={length} H={heads}/{kv_heads} D={dim} {'causal' if causal else 'full'}"
    flops = 4 * batch * heads * length**2 * dim / (2 if causal else 1)
    call = partial(attention, causal=causal)
    fewer = (1, length, heads // kv_heads, 1, dim)
    small = (1, 128, 1, 1, dim)

    def with_cotangent(shapes: Shapes) -> Shapes:
        return (*shapes, shapes[0])

    forward = Case(
        f"attention/{name}",
        call,
        _shapes(*sizes),
        flops=flops,
        small=_shapes(*small),
        check=_shapes(*fewer),
        peers=peers.attention(causal=causal),
        backends=backends,
    )
    backward = Case(
        f"attention/gradient {name}",
        gradient(call, 3),
        with_cotangent(_shapes(*sizes)),
        flops=3.5 * flops,
        small=with_cotangent(_shapes(*small)),
        check=with_cotangent(_shapes(*fewer)),
        peers=peers.attention(causal=causal, gradient=True),
    )
    return forward, backward


def _packed(q: Array, k: Array, v: Array, segment_ids: Array, **settings: Any) -> Array:
    """Documents one after the other in each row, kept apart."""
    return attention(q, k, v, causal=True, segment_ids=segment_ids, **settings)


def _documents(key: Array, shapes: Shapes) -> tuple[Array, ...]:
    """Standard normals; the documents are a quarter of the row long."""
    q, k, v, ids, *rest = normal(key, shapes)
    length = ids.shape[1]
    numbers = jnp.arange(length, dtype=jnp.int32)[None, :] // -(-length // 4)
    return q, k, v, jnp.broadcast_to(numbers, ids.shape), *rest


def _ids(batch: int, length: int) -> jax.ShapeDtypeStruct:
    return array(batch, length, dtype=jnp.int32)


def _special(*sizes: int) -> tuple[Case, ...]:
    """A window, and packed documents: what most peers have no kernel for."""
    batch, length, heads, _, dim = sizes
    shapes, small, check = (
        _shapes(*s) for s in (sizes, (1, 128, 1, 1, dim), (1, length, 4, 1, dim))
    )
    width, quarter = 1024, length // 4
    seen = {"window": width * (length - width / 2), "documents": 4 * quarter**2 / 2}
    flops = {name: 4 * batch * heads * dim * pairs for name, pairs in seen.items()}
    windowed = partial(attention, causal=True, window=width)

    def documents(shapes: Shapes, cotangent: bool = False) -> Shapes:
        q, k, v = shapes
        return (q, k, v, _ids(*q.shape[:2]), *((q,) if cotangent else ()))

    return (
        Case(
            f"attention/D={dim} causal window={width}",
            windowed,
            shapes,
            flops=flops["window"],
            small=small,
            check=check,
        ),
        Case(
            f"attention/gradient D={dim} causal window={width}",
            gradient(windowed, 3),
            (*shapes, shapes[0]),
            flops=3.5 * flops["window"],
            small=(*small, small[0]),
            check=(*check, check[0]),
        ),
        Case(
            f"attention/D={dim} causal documents",
            _packed,
            documents(shapes),
            flops=flops["documents"],
            small=documents(small),
            check=documents(check),
            draw=_documents,
        ),
        Case(
            f"attention/gradient D={dim} causal documents",
            gradient(_packed, 3),
            documents(shapes, cotangent=True),
            flops=3.5 * flops["documents"],
            small=documents(small, cotangent=True),
            check=documents(check, cotangent=True),
            draw=_documents,
        ),
    )


CASES = (
    *_cases(32, 4096, 32, 8, 128, causal=True, backends=("mosaic_gpu", "triton")),
    *_cases(16, 6144, 16, 16, 128, causal=True),
    *_cases(16, 6144, 16, 16, 128, causal=False),
    *_cases(16, 6144, 16, 16, 64, causal=True, backends=("mosaic_gpu", "triton")),
    *_cases(16, 6144, 16, 16, 64, causal=False),
    *_cases(32, 512, 32, 32, 64, causal=False),
    *_special(8, 4096, 32, 8, 128),
)
