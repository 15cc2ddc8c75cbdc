"""Hybrid attention in plain JAX: the masked quadratic definition, a chunked and a recurrent form.

Softmax over a near window and linear attention over everything before it share one denominator
(LoLCATs, arXiv 2410.10254, Equation 7). With a column of ones beside the values, numerator and
denominator are one product, weights @ [v, 1]; the forms differ in which weights they write down.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from pallas_kernels.ops.hybrid_attention.operands import Operands, Rule
from pallas_kernels.ops.hybrid_attention.state import HybridState, per_head

# A finite mask: the difference of two masked scores must not be NaN.
_UNSEEN = -1e30
# Small windows share a chunk of about this many tokens: the matrices stay worth multiplying.
_CHUNK = 64


class _Heads(NamedTuple):
    """The operands head by head in at least float32; `v` and `state` end in the ones column."""

    q: Float[Array, "b h l d"]
    k: Float[Array, "b h l d"]
    v: Float[Array, "b h l p1"]
    phi_q: Float[Array, "b h l f"]
    phi_k: Float[Array, "b h l f"]
    window_factor: Float[Array, "h"]
    linear_factor: Float[Array, "h"]
    state: Float[Array, "b h f p1"]


def quadratic(
    x: Operands, rule: Rule, segment_ids: Int[Array, "b l"] | None = None
) -> Float[Array, "b l h p"]:
    """All pairs of tokens under two masks: the definition.

    Source: arXiv 2410.10254, Equation 7; the blocks of a terrace begin at the first token.
    """
    t, ids = _by_head(x), _ids(x, segment_ids)
    index = _index(ids)
    same = ids[:, :, None] == ids[:, None, :]
    masks = _masks(index[:, :, None], index[:, None, :], rule)
    near, far = ((m & same)[:, None] for m in masks)
    weights = _near_weights(t.q, t.k, near, t.window_factor, rule)
    weights += jnp.where(far, _far_weights(t.phi_q, t.phi_k, t.linear_factor), 0)
    carried = _far_weights(t.phi_q, t.state.mT, t.linear_factor)
    return _ratio(_product(weights, t.v) + carried, rule, x.q.dtype)


def chunked(
    x: Operands, rule: Rule, segment_ids: Int[Array, "b l"] | None = None
) -> Float[Array, "b l h p"]:
    """Linear time: each chunk of queries against two chunks of keys and the sums before them.

    Equal segment ids must be neighbours. Source: arXiv 2410.10254, Appendix C.2; sliding: derived.
    """
    # A terrace within a segment may begin anywhere, and so reach back two windows from any token.
    reach = rule.window * (2 if rule.kind == "terrace" and segment_ids is not None else 1)
    length, width = x.q.shape[1], reach * max(1, _CHUNK // reach)
    blocks = -(-length // width)

    def cut(a):  # the axis before the last, in blocks; the last block is filled up with zeros
        fill = [(0, 0)] * (a.ndim - 2) + [(0, blocks * width - length), (0, 0)]
        return jnp.pad(a, fill).reshape(*a.shape[:-2], blocks, width, a.shape[-1])

    t = _by_head(x)
    ids = cut(_ids(x, segment_ids)[..., None])
    index = _index(ids.reshape(ids.shape[0], -1)).reshape(ids.shape)
    q, k, v, phi_q, phi_k = (cut(a) for a in t[:5])
    same = ids == _with_previous(ids).mT
    same = same.at[:, 0, :, :width].set(False)  # there is no block before the first
    masks = _masks(index, _with_previous(index).mT, rule)
    near, far = ((m & same)[:, None] for m in masks)
    weights = _near_weights(q, _with_previous(k), near, t.window_factor, rule)
    if rule.kind == "sliding" or width > rule.window:  # else two blocks are just the window
        linear = _far_weights(phi_q, _with_previous(phi_k), t.linear_factor)
        weights += jnp.where(far, linear, 0)
    states, readers = _states(phi_k, v, t.state, ids)
    carried = jnp.where(readers, _far_weights(phi_q, states.mT, t.linear_factor), 0)
    out = _product(weights, _with_previous(v)) + carried
    out = out.reshape(*out.shape[:2], blocks * width, -1)[:, :, :length]
    return _ratio(out, rule, x.q.dtype)


def recurrent(
    x: Operands, rule: Rule, state: HybridState
) -> tuple[Float[Array, "b l h p"], HybridState]:
    """Token by token from a state: constant memory, the form in which text is generated.

    Source: arXiv 2410.10254, Equation 7 with the sums of Equation 4; terrace: derived.
    """

    def step(state, token):
        q, k, v, phi_q, phi_k = (a[:, None] for a in token)
        place = jnp.arange(rule.slots)[None, :] == state.count[:, None]
        keys, values, features = (
            jnp.where(place[:, :, None, None], new.astype(kept.dtype), kept)
            for new, kept in ((k, state.keys), (v, state.values), (phi_k, state.features))
        )
        seen = Operands(q, keys, values, phi_q, features, *x[5:7], state.kv, state.k_sum)
        t = _by_head(seen)
        near = (jnp.arange(rule.slots)[None, :] <= state.count[:, None])[:, None, None]
        weights = _near_weights(t.q, t.k, near, t.window_factor, rule)
        out = _product(weights, t.v) + _far_weights(t.phi_q, t.state.mT, t.linear_factor)
        return _folded(t, seen, rule, state.count), _ratio(out, rule, q.dtype)[:, 0]

    state, y = jax.lax.scan(step, state, tuple(a.swapaxes(0, 1) for a in x[:5]))
    return y.swapaxes(0, 1), state


def _folded(t: _Heads, seen: Operands, rule: Rule, count: Int[Array, "b"]) -> HybridState:
    """The state after a step: when no place is left, the oldest tokens go into the sums."""
    full, n = count + 1 == rule.slots, rule.fold
    gone = _product(t.phi_k[:, :, :n].mT, t.v[:, :, :n])
    sums = t.state + jnp.where(full[:, None, None, None], gone, 0)

    def kept(a):
        moved = jnp.concatenate([a[:, n:], jnp.zeros_like(a[:, :n])], 1)
        return jnp.where(full[:, None, None, None], moved, a)

    left = jnp.where(full, rule.slots - n, count + 1)
    kv, k_sum = sums[..., :-1], sums[..., -1]
    return HybridState(kv, k_sum, kept(seen.k), kept(seen.v), kept(seen.phi_k), left)


def _by_head(x: Operands) -> _Heads:
    heads = x.q.shape[2]
    q, k, v, phi_q, phi_k = (per_head(a, heads) for a in x[:5])
    window_factor, linear_factor = (a.astype(q.dtype) for a in x[5:7])
    v = jnp.concatenate([v, jnp.ones_like(v[..., :1])], axis=-1)
    state = jnp.concatenate([x.kv, x.k_sum[..., None]], axis=-1)
    return _Heads(q, k, v, phi_q, phi_k, window_factor, linear_factor, state)


def _ids(x: Operands, segment_ids: Int[Array, "b l"] | None) -> Int[Array, "b l"]:
    """One segment where none are given; its batch axis of 1 stands for every row."""
    return jnp.zeros((1, x.q.shape[1]), jnp.int32) if segment_ids is None else segment_ids


def _index(ids: Int[Array, "b l"]) -> Int[Array, "b l"]:
    """Each token's place in its segment."""
    place = jnp.arange(ids.shape[1])[None, :]
    begins = jnp.concatenate([jnp.ones_like(ids[:, :1], bool), ids[:, 1:] != ids[:, :-1]], axis=1)
    return place - jax.lax.cummax(jnp.where(begins, place, 0), axis=1)


def _masks(
    n: Int[Array, "..."], j: Int[Array, "..."], rule: Rule
) -> tuple[Bool[Array, "..."], ...]:
    """Whether query n sees key j exactly (near), and whether through the linear path (far)."""
    if rule.kind == "terrace":
        reach = j // rule.window >= n // rule.window - 1
    else:
        reach = j > n - rule.window
    return (j <= n) & reach, (j <= n) & ~reach


def _near_weights(q, k, near, window_factor, rule) -> Float[Array, "b h ... n j"]:
    """g exp(s - c) on the window. c, its maximum, is not neutral: the far weights lack exp(-c)."""
    scores = jnp.where(near, _product(q, k.mT) * rule.scale, _UNSEEN)
    top = scores.max(-1, keepdims=True)
    return _times(window_factor, jnp.exp(scores - top))


def _far_weights(phi_q, phi_k, linear_factor) -> Float[Array, "b h ... n j"]:
    """l phi_q . phi_k; with a transposed state for phi_k, what the state adds."""
    return _times(linear_factor, _product(phi_q, phi_k.mT))


def _states(
    phi_k: Float[Array, "b h t w f"],
    v: Float[Array, "b h t w p1"],
    initial: Float[Array, "b h f p1"],
    ids: Int[Array, "b t w 1"],
) -> tuple[Float[Array, "b h t f p1"], Bool[Array, "b 1 t w 1"]]:
    """Per block the sums over all blocks but the one before it, and which queries may read them.

    The sums hold one segment only, that of the newest token in them: a block whose window reaches
    a newer segment has nothing else to read.
    """
    newest = ids[:, :, -1:]  # segment of each block's last token
    held = _twice_delayed(newest, 1, newest[:, :1])
    changed = jnp.concatenate([jnp.ones_like(held[:, :1]), held[:, 1:] == held[:, :-1]], 1)
    taken = jnp.where((ids == newest)[:, None], phi_k, 0)
    updates = _product(taken.mT, v)
    updates = _twice_delayed(updates, 2, jnp.zeros_like(updates[:, :, :1]))

    def step(total, block):
        update, keep = block
        total = total * keep[:, None] + update
        return total, total

    blocks = jnp.moveaxis(updates, 2, 0), jnp.moveaxis(changed.astype(v.dtype), 1, 0)
    _, states = jax.lax.scan(step, initial, blocks)
    return jnp.moveaxis(states, 0, 2), (ids == held)[:, None]


def _with_previous(a: Array) -> Array:
    """Each block after the one before it (zeros before the first): the last axes are (t, w, n)."""
    previous = jnp.concatenate([jnp.zeros_like(a[..., :1, :, :]), a[..., :-1, :, :]], axis=-3)
    return jnp.concatenate([previous, a], axis=-2)


def _twice_delayed(a: Array, axis: int, first: Array) -> Array:
    """`a` two blocks later, starting with `first` twice."""
    return jax.lax.slice_in_dim(
        jnp.concatenate([first, first, a], axis=axis), 0, a.shape[axis], axis=axis
    )


def _times(factor: Float[Array, "h"], a: Float[Array, "b h ..."]) -> Float[Array, "b h ..."]:
    return factor.reshape(1, -1, *(1,) * (a.ndim - 2)) * a


def _product(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, precision="highest")


def _ratio(sums: Float[Array, "b h l p1"], rule: Rule, dtype: jnp.dtype) -> Float[Array, "b l h p"]:
    """Numerator over denominator, the last column; no epsilon is needed where g > 0."""
    y = sums[..., :-1] / (sums[..., -1:] + rule.eps)
    return y.swapaxes(1, 2).astype(dtype)
