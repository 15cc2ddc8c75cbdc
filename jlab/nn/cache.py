"""Keys and values of the tokens read so far, so that the next tokens need not read them again.

A `Cache` is an opaque pytree: build it with `init_cache`, pass it to `Transformer`, keep the one
that comes back. Rows advance independently, so prompts of different length share a batch. `fork`
lets several samples continue one prompt whose keys and values are stored once.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jlab.nn.config import TransformerConfig

PADDING = -1  # segment id of a token that nothing may see, and of a slot not yet written


class KV(NamedTuple):
    """What one layer of the pattern remembers; the leading axis is the scan over repeats."""

    # What attention over the cache reads of a head is one matrix, laid as its product wants it.
    keys: Float[Array, "*repeats rows kv_heads head_dim slots"]  # after the rotary embedding
    values: Float[Array, "*repeats rows kv_heads slots head_dim"]


class Cache(NamedTuple):
    """Keys and values per layer of the pattern, and how far each row has come."""

    layers: tuple[KV, ...]  # one per layer of the pattern
    lengths: Int[Array, "rows"]  # tokens that each row has stored here, its prefix not counted
    segment_ids: Int[Array, "rows slots"]
    prefix: "Cache | None"  # read-only; its row i serves rows i * n ... i * n + n - 1 here

    @property
    def rows(self) -> int:
        """Batch size that the cache serves."""
        return self.segment_ids.shape[0]

    @property
    def slots(self) -> int:
        """Tokens that each row can store here."""
        return self.segment_ids.shape[1]


def init_cache(
    config: TransformerConfig, batch: int, length: int, dtype: str | None = None
) -> Cache:
    """An empty cache for `batch` rows of up to `length` tokens; dtype: by default the config's."""
    for name, value in (("batch", batch), ("length", length)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1; got {value}")

    def empty(layer):
        shape = (config.repeats, batch, layer.kv_heads, length, layer.head_dim)
        values = jnp.zeros(shape, dtype or config.dtype)
        return KV(values.mT, values)

    return Cache(
        layers=tuple(empty(layer) for layer in config.pattern),
        lengths=jnp.zeros((batch,), jnp.int32),
        segment_ids=jnp.full((batch, length), PADDING, jnp.int32),
        prefix=None,
    )


def fork(cache: Cache, n: int, length: int | None = None) -> Cache:
    """A cache in which each row continues `n` times: row i becomes rows i * n ... i * n + n - 1.

    The keys and values read so far are stored once and shared; `length` is the room of each
    continuation, by default that of `cache`.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1; got {n}")
    rows, slots = cache.rows * n, length or cache.slots

    def empty(kv):
        repeats, _, heads, _, dim = kv.values.shape
        values = jnp.zeros((repeats, rows, heads, slots, dim), kv.values.dtype)
        return KV(values.mT, values)

    return Cache(
        layers=tuple(empty(kv) for kv in cache.layers),
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
        layers=tuple(KV(kv.keys[:, rows], kv.values[:, rows]) for kv in cache.layers),
        lengths=cache.lengths[rows],
        segment_ids=cache.segment_ids[rows],
        prefix=prefix,
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
    rows = jnp.arange(cache.rows)[:, None]
    ids = cache.segment_ids.at[rows, targets].set(segment_ids, mode="drop")
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


def overflowed(cache: Cache) -> Bool[Array, "rows"]:
    """Which rows were given more tokens than they have slots."""
    return cache.lengths > cache.slots
