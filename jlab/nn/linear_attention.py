"""Causal linear attention with its normaliser, and what it remembers of the tokens read so far.

    y_n = sum_{j<=n} phi(q_n).phi(k_j) v_j / (sum_{j<=n} phi(q_n).phi(k_j) + eps)

Source: Katharopoulos et al. 2020, arXiv 2006.16236, Equations 8-12; LoLCATs, arXiv 2410.10254,
Equations 2-4.
"""

import functools
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

import pallas_kernels
from jlab.nn.feature_maps import EPS
from pallas_kernels.dispatch import Implementation

# The log decay at a segment's first token: exp(-128) is 0 in float32, and sums of it are exact.
_FORGET = -128.0


class LinearState(NamedTuple):
    """Sums over the tokens read so far, in at least float32; rows are independent."""

    kv: Float[Array, "b heads features dim"]  # of phi(k) v^T
    k_sum: Float[Array, "b heads features"]  # of phi(k)


def linear_attention(
    phi_q: Float[Array, "b l heads features"],
    phi_k: Float[Array, "b l heads features"],
    v: Float[Array, "b l kv_heads dim"],
    form: Literal["chunked", "quadratic", "recurrent"] = "chunked",
    *,
    segment_ids: Int[Array, "b l"] | None = None,
    mask: Bool[Array, "b l"] | None = None,
    initial_state: LinearState | None = None,
    return_state: bool = False,
    eps: float = EPS,
    implementation: Implementation | None = None,
) -> Float[Array, "b l heads dim"] | tuple[Float[Array, "b l heads dim"], LinearState]:
    """What each token reads; sums are at least float32, the result has the dtype of `v`.

    Args:
      phi_q: features of the queries, not negative.
      phi_k: features of the keys.
      v: values; query head i reads head i // (heads // kv_heads).
      form: all pairs at once, linear time in chunks, or token by token. They agree.
      segment_ids: tokens see only their own segment, whose tokens must be neighbours.
      mask: which tokens are real; the others are seen by none. None: all.
      initial_state: what an earlier call returned, whose segment goes on with the first token.
      return_state: also return the state after the last token.
      eps: added to the denominator.
      implementation: of the chunked form, as for `pallas_kernels.linear_attention`.

    Raises:
      ValueError: for shapes that do not fit together, or an unknown form.
      NotImplementedError: for an implementation asked for that does not take these inputs.

    >>> phi, v = jnp.ones((1, 3, 2, 4)), jnp.arange(3.0).reshape(1, 3, 1, 1)
    >>> linear_attention(phi, phi, v)[0, :, 0, 0].tolist()  # the mean of what was read
    [0.0, 0.5, 1.0]
    """
    if form not in ("chunked", "quadratic", "recurrent"):
        raise ValueError(f"form must be chunked, quadratic or recurrent; got {form!r}")
    if phi_q.shape != phi_k.shape or phi_q.shape[:2] != v.shape[:2]:
        shapes = ", ".join(str(list(x.shape)) for x in (phi_q, phi_k, v))
        raise ValueError(f"phi_q, phi_k and v must agree in batch, length and heads; got {shapes}")
    heads = phi_q.shape[2]
    if heads % v.shape[2]:
        raise ValueError(f"heads = {heads} must be a multiple of v's; got {v.shape[2]}")
    wide = jnp.promote_types(jnp.promote_types(phi_q.dtype, v.dtype), jnp.float32)
    phi_q, phi_k = phi_q.astype(wide), phi_k.astype(wide)
    if mask is not None:
        phi_k = jnp.where(mask[:, :, None, None], phi_k, 0)
        v = jnp.where(mask[:, :, None, None], v, 0)
    # A column of ones: numerator and denominator are one product.
    values = jnp.repeat(v.astype(wide), heads // v.shape[2], axis=2)
    values = jnp.concatenate([values, jnp.ones_like(values[..., :1])], axis=-1)
    state = None
    if initial_state is not None:
        state = jnp.concatenate([initial_state.kv, initial_state.k_sum[..., None]], axis=-1)
    chunked = functools.partial(_chunked, implementation)
    run = {"chunked": chunked, "quadratic": _quadratic, "recurrent": _recurrent}[form]
    sums, state = run(phi_q, phi_k, values, _begins(segment_ids), state)
    y = (sums[..., :-1] / (sums[..., -1:] + eps)).astype(v.dtype)
    return (y, LinearState(state[..., :-1], state[..., -1])) if return_state else y


def _begins(segment_ids: Int[Array, "b l"] | None) -> Bool[Array, "b l"] | None:
    """Where a segment begins, the first token of the row aside."""
    if segment_ids is None:
        return None
    same = segment_ids[:, 1:] == segment_ids[:, :-1]
    return jnp.concatenate([jnp.zeros_like(segment_ids[:, :1], bool), ~same], axis=1)


def _chunked(implementation, phi_q, phi_k, values, begins, state):
    decay = None
    if begins is not None:
        decay = jnp.where(begins, _FORGET, 0).astype(values.dtype)
        decay = jnp.broadcast_to(decay[:, :, None], values.shape[:3])
    return pallas_kernels.linear_attention(
        phi_q,
        phi_k,
        values,
        log_decay=decay,
        initial_state=state,
        return_state=True,
        implementation=implementation,
    )


def _quadratic(phi_q, phi_k, values, begins, state):
    length = values.shape[1]
    index = jnp.arange(length)
    seen = (index[:, None] >= index[None, :])[None]
    part = jnp.zeros((1, length), int) if begins is None else jnp.cumsum(begins, axis=1)
    seen = (seen & (part[:, :, None] == part[:, None, :]))[:, None]
    weights = jnp.einsum("bnhf,bjhf->bhnj", phi_q, phi_k, precision="highest")
    sums = _product("bhnj,bjhd->bnhd", jnp.where(seen, weights, 0), values)
    last = (part == part[:, -1:])[:, :, None, None]
    after = _product("bjhf,bjhd->bhfd", jnp.where(last, phi_k, 0), values)
    if state is not None:
        first = (part == 0)[:, :, None, None]
        sums += jnp.where(first, _product("bnhf,bhfd->bnhd", phi_q, state), 0)
        after += jnp.where((part[:, -1] == 0)[:, None, None, None], state, 0)
    return sums, after


def _recurrent(phi_q, phi_k, values, begins, state):
    b, length, heads, dim = values.shape
    if state is None:
        state = jnp.zeros((b, heads, phi_k.shape[-1], dim), values.dtype)
    begins = jnp.zeros((b, length), bool) if begins is None else begins

    def step(state, token):
        q, k, v, new = token
        kept = jnp.where(new[:, None, None, None], 0, state)
        state = kept + k[..., :, None] * v[..., None, :]
        return state, _product("bhf,bhfd->bhd", q, state)

    tokens = (x.swapaxes(0, 1) for x in (phi_q, phi_k, values, begins))
    state, sums = jax.lax.scan(step, state, tuple(tokens))
    return sums.swapaxes(0, 1), state


def _product(rule: str, a: Array, b: Array) -> Array:
    return jnp.einsum(rule, a, b, precision="highest")
