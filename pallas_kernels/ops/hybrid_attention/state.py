"""What hybrid attention remembers of the tokens read so far, so that any later call can go on.

Tokens that every later query sees through the linear path are summed; the newest ones are kept as
they are, because a later query may still see them exactly. A call with a state lays the kept
tokens in front of the new ones, so that blocks begin where they would in one long call.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pallas_kernels.ops.hybrid_attention.operands import OP, Operands, Rule


class HybridState(NamedTuple):
    """Sums over the tokens that left every window, and the newest tokens; rows are independent."""

    kv: Float[Array, "b h f p"]  # sum of phi_k v^T, at least float32
    k_sum: Float[Array, "b h f"]  # sum of phi_k
    keys: Float[Array, "b slots kv_heads d"]  # the newest tokens, oldest first, then zeros
    values: Float[Array, "b slots kv_heads p"]
    features: Float[Array, "b slots phi_heads f"]
    count: Int[Array, "b"]  # slots in use: fewer than `slots`, so that one more token fits


def empty_state(x: Operands, rule: Rule) -> HybridState:
    """The state before the first token of rows shaped like these."""
    keys, values, features = (
        jnp.zeros((a.shape[0], rule.slots, *a.shape[2:]), a.dtype) for a in (x.k, x.v, x.phi_k)
    )
    count = jnp.zeros((x.q.shape[0],), jnp.int32)
    sums = jnp.zeros_like(x.kv), jnp.zeros_like(x.k_sum)
    return HybridState(*sums, keys, values, features, count)


def check_state(state: HybridState, x: Operands, rule: Rule) -> None:
    """Refuse a state that belongs to other shapes or another window.

    Raises:
      ValueError: with the field, its shape and type, and those that it should have.
    """
    for name, got, wanted in zip(state._fields, state, empty_state(x, rule), strict=True):
        if (got.shape, got.dtype) != (wanted.shape, wanted.dtype):
            raise ValueError(
                f"{OP}: initial_state.{name} must be {wanted.dtype}{list(wanted.shape)};"
                f" got {got.dtype}{list(got.shape)}"
            )


def join(state: HybridState, x: Operands) -> tuple[Operands, Int[Array, "b l"]]:
    """The kept tokens, then the new ones, then unused places; and where the new ones lie."""
    index = state.count[:, None] + jnp.arange(x.q.shape[1])[None, :]
    rows = jnp.arange(x.q.shape[0])[:, None]

    def laid(kept, new):
        return jnp.concatenate([kept, jnp.zeros_like(new)], 1).at[rows, index].set(new)

    def queries(new):  # the kept tokens have had their outputs
        slots = state.keys.shape[1]
        return laid(jnp.zeros((new.shape[0], slots, *new.shape[2:]), new.dtype), new)

    joined = x._replace(
        q=queries(x.q),
        k=laid(state.keys, x.k),
        v=laid(state.values, x.v),
        phi_q=queries(x.phi_q),
        phi_k=laid(state.features, x.phi_k),
        kv=state.kv,
        k_sum=state.k_sum,
    )
    return joined, index


def state_after(x: Operands, rule: Rule, lengths: Int[Array, "b"]) -> HybridState:
    """The state once the first `lengths` tokens of each row have been read.

    Terrace: the block that the next token falls into and the one before it are kept. Sliding: the
    last `window - 1` tokens are. Source: derived from the windows of arXiv 2410.10254, Section 3.2.
    """
    if rule.kind == "terrace":
        first = rule.window * jnp.maximum(lengths // rule.window - 1, 0)
    else:
        first = jnp.maximum(lengths - (rule.window - 1), 0)
    gone = jnp.arange(x.k.shape[1])[None, :] < first[:, None]
    phi_k, v = (jnp.where(gone[:, :, None, None], a, 0) for a in (x.phi_k, x.v))
    kv, k_sum = sums(phi_k, v, x.q.shape[2])
    index = first[:, None] + jnp.arange(rule.slots)[None, :]
    used = (index < lengths[:, None])[:, :, None, None]

    def kept(a):
        newest = jnp.take_along_axis(a, index[:, :, None, None], axis=1, mode="clip")
        return jnp.where(used, newest, 0)

    tokens = kept(x.k), kept(x.v), kept(x.phi_k)
    return HybridState(x.kv + kv, x.k_sum + k_sum, *tokens, lengths - first)


def sums(
    phi_k: Float[Array, "b l phi_heads f"], v: Float[Array, "b l kv_heads p"], heads: int
) -> tuple[Float[Array, "b h f p"], Float[Array, "b h f"]]:
    """sum of phi_k v^T and sum of phi_k over all tokens, for each of `heads` query heads."""
    features, values = per_head(phi_k, heads), per_head(v, heads)
    return jnp.matmul(features.mT, values, precision="highest"), features.sum(2)


def per_head(a: Float[Array, "b l shared n"], heads: int) -> Float[Array, "b h l n"]:
    """Head by head in at least float32; head h reads head h // (heads // shared) of `a`."""
    wide = a.astype(jnp.promote_types(a.dtype, jnp.float32)).swapaxes(1, 2)
    return jnp.repeat(wide, heads // a.shape[2], axis=1)
