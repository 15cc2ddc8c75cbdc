"""The arrays of one call, checked; and the state, a sum of features times values."""

import math
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from pallas_kernels import dispatch

OP = "taylor_attention"


class TaylorState(NamedTuple):
    """Sums over the tokens read so far, at least float32: what is needed of them, and no more.

    phi(k) = [1, k / d^(1/4), vec(k k^T) / sqrt(2 d)]; the last three resume the normaliser.
    """

    a0: Float[Array, "b kv_heads p"]  # sum of v
    a1: Float[Array, "b kv_heads d p"]  # sum of k v^T / d^(1/4)
    a2: Float[Array, "b kv_heads d2 p"]  # sum of vec(k k^T) v^T / sqrt(2 d)
    n0: Float[Array, "b kv_heads"]  # the same with 1 for v: how many tokens
    n1: Float[Array, "b kv_heads d"]
    n2: Float[Array, "b kv_heads d2"]


class Operands(NamedTuple):
    """Queries, keys and values; head h of `q` reads head h // (h / kv_heads) of `k` and `v`."""

    q: Float[Array, "b l h d"]
    k: Float[Array, "b l kv_heads d"]
    v: Float[Array, "b l kv_heads p"]


def check(x: Operands, state: TaylorState | None) -> None:
    """Refuse arrays that do not fit together.

    Raises:
      ValueError: for shapes that do not, or an empty array.
      TypeError: for arrays of different types.
    """
    sizes = {}
    dispatch.check_shape(
        OP, sizes, q=(x.q, "b l h d"), k=(x.k, "b l kv_heads d"), v=(x.v, "b l kv_heads p")
    )
    if sizes["h"] % sizes["kv_heads"]:
        raise ValueError(f"{OP}: kv_heads must divide h = {sizes['h']}; got {sizes['kv_heads']}")
    dispatch.check_one_dtype(OP, q=x.q, k=x.k, v=x.v)
    if state is None:
        return
    for name, got, wanted in zip(state._fields, state, empty_state(x), strict=True):
        if (got.shape, got.dtype) != (wanted.shape, wanted.dtype):
            raise ValueError(
                f"{OP}: initial_state.{name} must be {wanted.dtype}{list(wanted.shape)};"
                f" got {got.dtype}{list(got.shape)}"
            )


def empty_state(x: Operands) -> TaylorState:
    """The state before the first token of rows shaped like these."""
    (b, _, heads, d), p = x.k.shape, x.v.shape[3]
    wide = jnp.promote_types(x.q.dtype, jnp.float32)
    shapes = (p,), (d, p), (d * d, p), (), (d,), (d * d,)
    return TaylorState(*(jnp.zeros((b, heads, *s), wide) for s in shapes))


def stacked(state: TaylorState) -> Float[Array, "b kv_heads e p1"]:
    """The state as one matrix: features by values, the normaliser in the last column."""
    values = jnp.concatenate([state.a0[:, :, None], state.a1, state.a2], axis=2)
    ones = jnp.concatenate([state.n0[:, :, None], state.n1, state.n2], axis=2)
    return jnp.concatenate([values, ones[..., None]], axis=3)


def unstacked(sums: Float[Array, "b kv_heads e p1"], d: int) -> TaylorState:
    """The inverse of `stacked`."""
    parts = sums[:, :, 0], sums[:, :, 1 : d + 1], sums[:, :, d + 1 :]
    return TaylorState(*(a[..., :-1] for a in parts), *(a[..., -1] for a in parts))


def features(x: Float[Array, "*n d"]) -> Float[Array, "*n e"]:
    """phi(x) = [1, x / d^(1/4), vec(x x^T) / sqrt(2 d)]; phi(q).phi(k) = 1 + z + z^2 / 2.

    z = q.k / sqrt(d). Source: Based, arXiv 2402.18668, Section 4.1.
    """
    d = x.shape[-1]
    squares = (x[..., :, None] * x[..., None, :]).reshape(*x.shape[:-1], d * d)
    one = jnp.ones_like(x[..., :1])
    return jnp.concatenate([one, x / d**0.25, squares / math.sqrt(2 * d)], axis=-1)
