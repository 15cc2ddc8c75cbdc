"""Causal linear attention with decay in plain JAX: the definition, in three equal forms.

A state S [n, p] per head forgets by exp(a_t) and takes in an outer product at every token, and the
query reads it: S_t = exp(a_t) S_{t-1} + k_t v_t^T, o_t = S_t^T q_t. `recurrent` is this line as it
stands. `quadratic` writes the sum out, o_t = sum_{s<=t} exp(A_t - A_s) (q_t . k_s) v_s with
A = cumsum(a). `chunked` does the second inside chunks and the first from chunk to chunk, so that
its cost grows with the length and its work is matrix products; it is what users run.

Symbols: a -> log_decay (finite), S_0 -> initial_state, A -> total. All forms take and return the
same arrays: q, k [b, l, g, n] with g groups of heads (head h uses group h // (heads / g)),
v [b, l, h, p], log_decay [b, l, h], initial_state [b, h, n, p] -> o [b, l, h, p], last state
[b, h, n, p]. They compute in float32, or wider where an input is wider; o has v's dtype.

Source: Dao & Gu, arXiv 2405.21060, Sections 3 and 6; Qin et al., arXiv 2405.17381 (constant decay).
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Queries = Float[Array, "batch length groups n"]
Values = Float[Array, "batch length heads p"]
Decays = Float[Array, "batch length heads"]
State = Float[Array, "batch heads n p"]
States = Float[Array, "batch chunks heads n p"]


def accumulator_dtype(*arrays: Array) -> jnp.dtype:
    """What sums are kept in: float32, or an input's dtype where that is wider."""
    return jnp.result_type(jnp.float32, *(x.dtype for x in arrays))


def recurrent(
    q: Queries, k: Queries, v: Values, log_decay: Decays, initial_state: State
) -> tuple[Values, State]:
    """One token after the other, as in decoding. Source: arXiv 2405.21060, Equation 1."""

    def step(state, token):
        q, k, v, decay = token
        state = jnp.exp(decay)[..., None, None] * state + k[..., :, None] * v[..., None, :]
        return state, jnp.einsum("bhn,bhnp->bhp", q, state)

    tokens, state = _prepare(q, k, v, log_decay, initial_state)
    state, o = jax.lax.scan(step, state, jax.tree.map(lambda x: jnp.moveaxis(x, 2, 0), tokens))
    return jnp.moveaxis(o, 0, 1).astype(v.dtype), state


def quadratic(
    q: Queries, k: Queries, v: Values, log_decay: Decays, initial_state: State
) -> tuple[Values, State]:
    """The whole [l, l] matrix of weights at once. Source: arXiv 2405.21060, Equation 3 (SSD)."""
    tokens, state = _prepare(q, k, v, log_decay, initial_state)
    state, o = _chunk(state, (*tokens[:3], *_running_sum(tokens[3])))
    return jnp.moveaxis(o, 1, 2).astype(v.dtype), state


def chunked(
    q: Queries, k: Queries, v: Values, log_decay: Decays, initial_state: State, *, chunk: int = 64
) -> tuple[Values, State]:
    """Quadratic inside chunks of `chunk` tokens, recurrent between them.

    Reverse-mode derivatives keep one state per chunk and make the rest again: memory grows with
    the length, not with its square. Source: arXiv 2405.21060, Section 6.
    """
    length = q.shape[1]
    chunk = min(chunk, length)
    tokens, state = _prepare(q, k, v, log_decay, initial_state)
    # Zeros at the end change nothing: they decay nothing and add nothing to the state.
    *qkv, decay = (_split(x, chunk) for x in tokens)
    state, o = jax.lax.scan(_chunk, state, (*qkv, *_running_sum(decay)))
    o = jnp.moveaxis(o, 0, 2)  # [b, h, chunks, chunk, p]
    o = o.reshape(*o.shape[:2], -1, o.shape[-1])[:, :, :length]
    return jnp.moveaxis(o, 1, 2).astype(v.dtype), state


# Inside a scan nothing can merge the two computations, and the guard against it costs a fifth.
@functools.partial(jax.checkpoint, prevent_cse=False)
def _chunk(state: State, tokens: tuple[Array, ...]) -> tuple[State, Array]:
    """What a chunk reads from the state and from itself, and the state after it.

    tokens: q, k [b, h, t, n], v [b, h, t, p] and the running sum of the log decay from the chunk's
    start, in two parts [b, h, t]. Only differences of it inside the chunk are exponentiated, and
    they are masked first: above the diagonal they are positive and would overflow.
    """
    q, k, v, total, rest = tokens
    causal = jnp.tril(jnp.ones((q.shape[-2],) * 2, bool))[None, None]
    difference = total[..., :, None] - total[..., None, :]
    difference += rest[..., :, None] - rest[..., None, :]
    weights = jnp.einsum("bhtn,bhsn->bhts", q, k)
    weights *= jnp.exp(jnp.where(causal, difference, -jnp.inf))
    o = weights @ v + jnp.exp(total)[..., None] * (q @ state)
    # Of each token, at the end of the chunk.
    kept = jnp.exp((total[..., -1:] - total) + (rest[..., -1:] - rest))[..., None]
    state = jnp.exp(total[..., -1])[..., None, None] * state
    return state + jnp.einsum("bhsn,bhsp->bhnp", k, kept * v), o


def _running_sum(x: Array) -> tuple[Array, Array]:
    """The running sum over the last axis, and what rounding took from it.

    After a token that forgets nearly all the sum is large, and differences between the tokens that
    follow would have lost their last digits.
    """
    total = jnp.cumsum(x, axis=-1)
    before = jnp.pad(total, [(0, 0)] * (x.ndim - 1) + [(1, 0)])[..., :-1]
    return total, jnp.cumsum(x - (total - before), axis=-1)


def _prepare(q, k, v, log_decay, initial_state) -> tuple[tuple[Array, ...], State]:
    """Head-major arrays [b, h, l, ...] in the accumulator's dtype, groups written out per head."""
    dtype = accumulator_dtype(q, k, v, log_decay, initial_state)
    repeats = v.shape[2] // q.shape[2]
    tokens = (jnp.repeat(q, repeats, axis=2), jnp.repeat(k, repeats, axis=2), v, log_decay)
    return tuple(jnp.moveaxis(x, 2, 1).astype(dtype) for x in tokens), initial_state.astype(dtype)


def _split(x: Array, chunk: int) -> Array:
    """[b, h, l, ...] -> [chunks, b, h, chunk, ...], the last chunk filled up with zeros."""
    x = jnp.pad(x, [(0, 0), (0, 0), (0, -x.shape[2] % chunk), *[(0, 0)] * (x.ndim - 3)])
    return jnp.moveaxis(x.reshape(*x.shape[:2], -1, chunk, *x.shape[3:]), 2, 0)
