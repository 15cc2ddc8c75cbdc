"""Taylor attention in plain JAX: all pairs (the definition), chunked, and token by token.

With a column of ones beside the values, the sum of the weights is one more column of the output.
Heads are grouped as [b, kv_heads, group, l, n] for queries, [b, kv_heads, l, n] for keys, values.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pallas_kernels.ops.taylor_attention.operands import Operands, features

# Tokens per chunk of the linear-time form; inside a chunk all pairs are written down.
_CHUNK = 64

Sums = Float[Array, "b kv_heads e p1"]


class _Grouped(NamedTuple):
    """The operands by key head, in at least float32; `v` ends in the column of ones."""

    q: Float[Array, "b kv_heads group l d"]
    k: Float[Array, "b kv_heads l d"]
    v: Float[Array, "b kv_heads l p1"]


def quadratic(x: Operands, state: Sums) -> tuple[Float[Array, "b l h p1"], Sums]:
    """y_t = sum over s <= t of (1 + z + z^2 / 2) [v_s, 1], z = q_t.k_s / sqrt(d), from all pairs.

    Source: Based, arXiv 2402.18668, Section 4.1.
    """
    t = _grouped(x)
    return _ungrouped(_all_pairs(t) + _carried(t.q, state)), state + _taken(t)


def chunked(x: Operands, state: Sums) -> tuple[Float[Array, "b l h p1"], Sums]:
    """Linear time: all pairs inside a chunk, the sums over what lies before it.

    Source: derived from phi(q).phi(k) = 1 + z + z^2 / 2.
    """
    length = x.q.shape[1]
    chunks = -(-length // _CHUNK)

    def cut(a):  # chunks first; the last is filled up with zeros, which as values add nothing
        fill = [(0, 0)] * (a.ndim - 2) + [(0, chunks * _CHUNK - length), (0, 0)]
        a = jnp.pad(a, fill).reshape(*a.shape[:-2], chunks, _CHUNK, a.shape[-1])
        return jnp.moveaxis(a, -3, 0)

    @jax.checkpoint  # the features are many times larger than what they are made of
    def step(state, chunk):
        return state + _taken(chunk), _all_pairs(chunk) + _carried(chunk.q, state)

    state, out = jax.lax.scan(step, state, _Grouped(*(cut(a) for a in _grouped(x))))
    out = jnp.moveaxis(out, 0, 3)
    return _ungrouped(out.reshape(*out.shape[:3], -1, out.shape[-1])[..., :length, :]), state


def recurrent(x: Operands, state: Sums) -> tuple[Float[Array, "b l h p1"], Sums]:
    """Token by token: constant memory, the form in which text is generated.

    Source: Based, arXiv 2402.18668, Section 4.1.
    """
    t = _grouped(x)

    def step(state, token):
        state = state + _taken(token)
        return state, _carried(token.q, state)[..., 0, :]

    tokens = _Grouped(*(jnp.moveaxis(a, -2, 0)[..., None, :] for a in t))
    state, out = jax.lax.scan(step, state, tokens)
    return _ungrouped(jnp.moveaxis(out, 0, 3)), state


def _grouped(x: Operands) -> _Grouped:
    wide = jnp.promote_types(x.q.dtype, jnp.float32)
    q, k, v = (a.astype(wide).swapaxes(1, 2) for a in x)
    b, h, length, d = q.shape
    q = q.reshape(b, k.shape[1], h // k.shape[1], length, d)
    return _Grouped(q, k, jnp.concatenate([v, jnp.ones_like(v[..., :1])], axis=-1))


def _ungrouped(out: Float[Array, "b kv_heads group l p1"]) -> Float[Array, "b l h p1"]:
    b, kv_heads, group, length, p1 = out.shape
    return out.reshape(b, kv_heads * group, length, p1).swapaxes(1, 2)


def _all_pairs(t: _Grouped) -> Float[Array, "b kv_heads group l p1"]:
    z = _product("bkgnd,bkjd->bkgnj", t.q, t.k) / t.q.shape[-1] ** 0.5
    return _product("bkgnj,bkjp->bkgnp", jnp.tril(1 + z + z * z / 2), t.v)


def _carried(q: Float[Array, "b kv_heads group l d"], state: Sums) -> Array:
    """What the tokens summed in `state` give to each query."""
    return _product("bkgne,bkep->bkgnp", features(q), state)


def _taken(t: _Grouped) -> Sums:
    """What these tokens add to the state."""
    return _product("bkje,bkjp->bkep", features(t.k), t.v)


def _product(equation: str, a: Array, b: Array) -> Array:
    return jnp.einsum(equation, a, b, precision="highest")
