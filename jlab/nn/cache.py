"""What the layers remember of the tokens read so far, so that the next need not read them again.

A `Cache` is an opaque pytree: build it with `init_cache`, pass it to `Transformer`, keep the one
that comes back. Rows advance independently, so prompts of different length share a batch. `fork`
lets several samples continue one prompt whose keys and values are stored once.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jlab.nn.config import LayerConfig, TransformerConfig
from jlab.nn.linear_attention import LinearState
from pallas_kernels import HybridState

PADDING = -1  # segment id of a token that nothing may see, and of a slot not yet written

_ENDS = 2  # ids that a row keeps where there are no slots: the least and the greatest


class KV(NamedTuple):
    """What one layer of the pattern remembers; the leading axis is the scan over repeats."""

    # What attention over the cache reads of a head is one matrix, laid as its product wants it.
    keys: Float[Array, "*repeats rows kv_heads head_dim slots"]  # after the rotary embedding
    values: Float[Array, "*repeats rows kv_heads slots head_dim"]


# Of linear and hybrid attention, with the leading axis: of constant size whatever was read.
State = LinearState | HybridState


class Cache(NamedTuple):
    """What each layer of the pattern remembers, and how far each row has come."""

    layers: tuple[KV | State, ...]  # one per layer of the pattern
    lengths: Int[Array, "rows"]  # tokens that each row has stored here, its prefix not counted
    # Of every slot; where no layer has keys and values, only the least and the greatest id read.
    segment_ids: Int[Array, "rows slots"]
    prefix: "Cache | None"  # read-only; its row i serves rows i * n ... i * n + n - 1 here

    @property
    def rows(self) -> int:
        """Batch size that the cache serves."""
        return self.segment_ids.shape[0]

    @property
    def slots(self) -> int:
        """Ids that each row can store here; where the cache is bounded, as many as tokens."""
        return self.segment_ids.shape[1]

    @property
    def bounded(self) -> bool:
        """Whether a layer stores keys and values: states alone have room for any text."""
        return any(isinstance(layer, KV) for layer in self.layers)


def init_cache(
    config: TransformerConfig, batch: int, length: int, dtype: str | None = None
) -> Cache:
    """An empty cache for `batch` rows of up to `length` tokens; dtype: by default the config's.

    Without softmax layers it has the same size for any length, and room for any number of tokens.
    """
    for name, value in (("batch", batch), ("length", length)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1; got {value}")

    layers = (
        _empty(config.repeats, layer, batch, length, dtype or config.dtype)
        for layer in config.pattern
    )
    if all(layer.attention != "softmax" for layer in config.pattern):
        length = _ENDS
    return Cache(
        layers=tuple(layers),
        lengths=jnp.zeros((batch,), jnp.int32),
        segment_ids=jnp.full((batch, length), PADDING, jnp.int32),
        prefix=None,
    )


def _empty(repeats: int, layer: LayerConfig, rows: int, length: int, dtype: str) -> KV | State:
    """What a layer remembers before the first token."""
    heads, kv_heads, dim = layer.heads, layer.kv_heads, layer.head_dim
    if layer.attention == "softmax":
        values = jnp.zeros((repeats, rows, kv_heads, length, dim), dtype)
        return KV(values.mT, values)
    size = layer.feature_map.size(dim)
    wide = jnp.promote_types(dtype, jnp.float32)
    kv = jnp.zeros((repeats, rows, heads, size, dim), wide)
    if layer.attention == "linear":
        return LinearState(kv, kv[..., 0])
    slots = layer.window * (2 if layer.attention == "hybrid_terrace" else 1)
    keys, values = (jnp.zeros((repeats, rows, slots, kv_heads, dim), dtype) for _ in range(2))
    features = jnp.zeros((repeats, rows, slots, heads, size), dtype)
    count = jnp.zeros((repeats, rows), jnp.int32)
    return HybridState(kv, kv[..., 0], keys, values, features, count)


def fork(cache: Cache, n: int, length: int | None = None) -> Cache:
    """A cache in which each row continues `n` times: row i becomes rows i * n ... i * n + n - 1.

    The keys and values read so far are stored once and shared, states of constant size copied;
    `length` is the room of each continuation, by default that of `cache`.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1; got {n}")
    rows, slots = cache.rows * n, cache.slots
    if cache.bounded:
        slots = length or slots

    def forked(layer):
        if not isinstance(layer, KV):
            return copied(layer, n)
        repeats, _, heads, _, dim = layer.values.shape
        values = jnp.zeros((repeats, rows, heads, slots, dim), layer.values.dtype)
        return KV(values.mT, values)

    return Cache(
        layers=tuple(forked(layer) for layer in cache.layers),
        lengths=jnp.zeros((rows,), jnp.int32),
        segment_ids=jnp.full((rows, slots), PADDING, jnp.int32),
        prefix=cache,
    )


def take(cache: Cache, rows: Int[Array, "kept"]) -> Cache:
    """The cache of some of the rows, in the order given; a row may be named several times.

    In a forked cache each row taken gets its own copy of its prefix, since any row may be named.
    """
    prefix = cache.prefix
    if prefix is not None:
        prefix = take(prefix, rows // (cache.rows // prefix.rows))
    return Cache(
        layers=jax.tree.map(lambda leaf: leaf[:, rows], cache.layers),
        lengths=cache.lengths[rows],
        segment_ids=cache.segment_ids[rows],
        prefix=prefix,
    )


def copied(state: State, n: int) -> State:
    """`n` copies of each row's state."""
    return jax.tree.map(lambda leaf: jnp.repeat(leaf, n, axis=1), state)


def restart(cache: Cache, fresh: Bool[Array, "rows"]) -> Cache:
    """A forked cache in which the rows `fresh` continue their prefix anew."""

    def restarted(own, prefix):
        if isinstance(own, KV):
            return own  # what was written is out of sight once the ids are gone
        begun = copied(prefix, cache.rows // cache.prefix.rows)

        def put(new, old):
            return jnp.where(fresh.reshape(1, -1, *(1,) * (old.ndim - 2)), new, old)

        return jax.tree.map(put, begun, own)

    layers = zip(cache.layers, cache.prefix.layers, strict=True)
    return cache._replace(
        layers=tuple(restarted(*pair) for pair in layers),
        lengths=jnp.where(fresh, 0, cache.lengths),
        segment_ids=jnp.where(fresh[:, None], PADDING, cache.segment_ids),
    )


def replace_rows(cache: Cache, rows: Int[Array, "n"], new: Cache) -> Cache:
    """`cache` with the rows of a cache of fewer slots in place of its own.

    A row number past the last one drops its row.
    """

    def put(old, layer):
        if not isinstance(old, KV):
            return jax.tree.map(lambda a, b: a.at[:, rows].set(b, mode="drop"), old, layer)
        return KV(
            old.keys.at[:, rows, ..., : new.slots].set(layer.keys, mode="drop"),
            old.values.at[:, rows, :, : new.slots].set(layer.values, mode="drop"),
        )

    ids = cache.segment_ids.at[rows].set(PADDING, mode="drop")
    layers = zip(cache.layers, new.layers, strict=True)
    return cache._replace(
        layers=tuple(put(*pair) for pair in layers),
        lengths=cache.lengths.at[rows].set(new.lengths, mode="drop"),
        segment_ids=ids.at[rows, : new.slots].set(new.segment_ids, mode="drop"),
    )


def parts(cache: Cache) -> list[Cache]:
    """The cache and the prefixes that it continues, nearest first."""
    return [cache] + ([] if cache.prefix is None else parts(cache.prefix))


def first_index(cache: Cache) -> Int[Array, "rows"]:
    """Where each row's own tokens begin: how many tokens its prefixes hold."""
    if cache.prefix is None:
        return jnp.zeros((cache.rows,), jnp.int32)
    before = first_index(cache.prefix) + cache.prefix.lengths
    return jnp.repeat(before, cache.rows // cache.prefix.rows)


def advance(cache: Cache, segment_ids: Int[Array, "rows l"]) -> tuple[Cache, Int[Array, "rows l"]]:
    """Makes room for a chunk of tokens: the cache with its lengths and ids, and each token's slot.

    Padding gets a slot past the end, which `write` drops.
    """
    real = segment_ids != PADDING
    slots = cache.lengths[:, None] + jnp.cumsum(real, axis=1, dtype=jnp.int32) - 1
    targets = jnp.where(real, slots, cache.slots)
    if cache.bounded:
        rows = jnp.arange(cache.rows)[:, None]
        ids = cache.segment_ids.at[rows, targets].set(segment_ids, mode="drop")
    else:
        least, greatest = _ends(jnp.concatenate([cache.segment_ids, segment_ids], axis=1))
        ids = jnp.stack([jnp.minimum(least, greatest), greatest], axis=1)
    lengths = cache.lengths + real.sum(1, dtype=jnp.int32)
    return cache._replace(lengths=lengths, segment_ids=ids), targets


def write(
    kv: KV,
    slots: Int[Array, "rows l"],
    keys: Float[Array, "repeats rows l kv_heads head_dim"],
    values: Float[Array, "repeats rows l kv_heads head_dim"],
) -> KV:
    """The cache of one layer of the pattern with a chunk's keys and values in their slots."""
    rows = jnp.arange(slots.shape[0])[:, None]

    # Axes that are indexed by arrays come first in what is set.
    keys, values = (x.astype(kv.keys.dtype).transpose(1, 2, 0, 3, 4) for x in (keys, values))
    return KV(
        kv.keys.at[:, rows, :, :, slots].set(keys, mode="drop"),
        kv.values.at[:, rows, :, slots].set(values, mode="drop"),
    )


def unreadable(cache: Cache) -> Bool[Array, "rows"]:
    """Which rows hold what the cache cannot tell: too many tokens, or two documents in a state."""
    bad = (cache.lengths > cache.slots) & cache.bounded
    if all(isinstance(layer, KV) for layer in cache.layers):
        return bad
    least, greatest = _segments(cache)
    return bad | (least < greatest)


def _segments(cache: Cache) -> tuple[Int[Array, "rows"], Int[Array, "rows"]]:
    """The least and the greatest segment id of each row, prefixes included."""
    least, greatest = _ends(cache.segment_ids)
    if cache.prefix is None:
        return least, greatest
    n = cache.rows // cache.prefix.rows
    before = (jnp.repeat(x, n) for x in _segments(cache.prefix))
    return jnp.minimum(least, next(before)), jnp.maximum(greatest, next(before))


def _ends(ids: Int[Array, "rows n"]) -> tuple[Int[Array, "rows"], Int[Array, "rows"]]:
    """The least id of each row, above all others where there is none, and the greatest."""
    return jnp.where(ids == PADDING, jnp.iinfo(ids.dtype).max, ids).min(1), ids.max(1)
