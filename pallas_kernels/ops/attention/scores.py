"""What every kernel does with a tile of scores: hide what is not seen, add it to a running softmax.

The scores of a block of queries arrive one tile of keys at a time. With m the largest raw score so
far, l the sum of exp(scale * (s - m)) and O the like sum of values, a tile S updates

    m' = max(m, rowmax S);  P = exp(scale * (S - m'));  a = exp(scale * (m - m'))
    l' = a l + rowsum P;    O' = a O + P V

P enters the product in the values' type, l sums it in float32.
Source: FlashAttention, arXiv 2205.14135, Algorithm 1.
"""

from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pallas_kernels.ops.attention.masking import Setting
from pallas_kernels.tiles import LOG2E, UNSEEN, Tiles


def wholly_seen(
    setting: Setting, query: Any, queries: int, key: Any, keys: int, n_keys: int | None
) -> Any:
    """Whether nothing is to `hide` in a tile of so many queries and keys; True if never."""
    inside = True
    if setting.causal:
        inside = query >= key + keys - 1
    if setting.window is not None:
        inside &= query + queries - 1 - setting.window < key
        if not setting.causal:
            inside &= query + setting.window > key + keys - 1
    if n_keys is not None:
        inside &= key + keys <= n_keys
    return inside


def hide(
    t: Tiles,
    setting: Setting,
    scores: Float[Array, "rows columns"],
    query: Any,
    key: Any,
    *,
    n_keys: int | None = None,
    queries_down: bool = True,
) -> Float[Array, "rows columns"]:
    """UNSEEN in place of the scores of keys out of the query's reach: `masking.in_reach`, tiled.

    Places are kept per row and per column and compared where they meet: a tile of distances would
    take 64 registers of each thread, and the backward kernels have none to spare.

    Args:
      t: the lowering.
      setting: who sees whom.
      scores: the tile.
      query: place of its first query.
      key: place of its first key.
      n_keys: keys from here on are padding; None: there is none that a query could see.
      queries_down: a row is a query; otherwise a row is a key.
    """
    numbers = partial(t.row_numbers, scores.shape[0]), partial(t.column_numbers, scores.shape[1])
    queries, keys = numbers if queries_down else numbers[::-1]
    of_query, of_key = _spread(t, scores, queries_down)
    # Nothing is made that is not used: layout inference fails on numbers without a purpose.
    ordered = setting.causal or setting.window is not None
    i = queries() + query if ordered else None
    j = of_key(keys() + key) if ordered or n_keys is not None else None
    if setting.causal:
        scores = t.where(of_query(i) >= j, scores)
    if setting.window is not None:
        scores = t.where(of_query(i - setting.window) < j, scores)
        if not setting.causal:
            scores = t.where(of_query(i + setting.window) > j, scores)
    return scores if n_keys is None else t.where(j < n_keys, scores)


def hide_segments(
    t: Tiles,
    scores: Float[Array, "rows columns"],
    q_ids: Int[Array, "queries"],
    k_ids: Int[Array, "keys"],
    *,
    queries_down: bool = True,
) -> Float[Array, "rows columns"]:
    """UNSEEN in place of the scores of keys of another segment than the query's."""
    of_query, of_key = _spread(t, scores, queries_down)
    return t.where(of_query(q_ids) == of_key(k_ids), scores)


def _spread(t: Tiles, scores: Array, queries_down: bool) -> tuple[Any, Any]:
    """How a number per query, and one per key, becomes a tile."""
    by_row, by_column = (partial(f, shape=scores.shape) for f in (t.across, t.down))
    return (by_row, by_column) if queries_down else (by_column, by_row)


class Running(NamedTuple):
    """The softmax over the keys so far."""

    read: Float[Array, "rows dim_v"]  # O
    top: Float[Array, "rows"]  # m; UNSEEN while no key was seen
    total: Float[Array, "rows"]  # l


def start(t: Tiles, rows: int, dim_v: int) -> Running:
    """Before the first key."""
    return Running(t.full((rows, dim_v)), t.full_column(rows, UNSEEN), t.full_column(rows))


def add(
    t: Tiles, so_far: Running, scores: Float[Array, "rows keys"], v: Any, scale: float
) -> Running:
    """After a tile of keys: their raw scores, UNSEEN where not seen, and their values `v`."""
    top = jnp.maximum(so_far.top, t.row_max(scores))
    # Base 2, so that the hardware's exponential needs one multiplication less.
    factor = scale * LOG2E
    weights = jnp.exp2((scores - t.across(top, scores.shape)) * factor)
    fade = jnp.exp2((so_far.top - top) * factor)
    total = so_far.total * fade + t.row_sum(weights)
    read = so_far.read * t.across(fade, so_far.read.shape)
    return Running(t.mma(read, weights.astype(v.dtype), v), top, total)


def read_out(
    t: Tiles, last: Running, scale: float
) -> tuple[Float[Array, "rows dim_v"], Float[Array, "rows"]]:
    """What each query read and the log-sum-exp of its scores; 0 and -inf if it saw no key."""
    seen = last.top > UNSEEN / 2
    share = t.where(seen, 1 / last.total, 0.0)
    lse = t.where(seen, last.top * scale + jnp.log(last.total), -jnp.inf)
    return last.read * t.across(share, last.read.shape), lse
