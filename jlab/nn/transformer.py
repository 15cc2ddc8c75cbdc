"""The decoder transformer: every model of jlab is a value of its config.

Parameters: `embed`, `blocks/<i>/...` for layer i of the pattern with a leading axis of length
`repeats`, `final_norm`, and `lm_head` unless tied. The depth is one scan, so that the time to
compile does not grow with `repeats`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from jlab.nn.attention import Tokens
from jlab.nn.block import Context, scanned_blocks
from jlab.nn.cache import (
    KV,
    Cache,
    State,
    advance,
    first_index,
    init_cache,
    parts,
    unreadable,
    write,
)
from jlab.nn.config import PrecisionConfig, TransformerConfig
from jlab.nn.layers import Embed, Linear, Norm, wide
from jlab.nn.rope import rope_table


class Output(NamedTuple):
    """What a forward pass gives."""

    logits: Float[Array, "b l vocab"]  # at least float32
    hidden: Float[Array, "b l d"]  # after the final norm: what the head reads
    cache: Cache | None  # the cache after these tokens; None if none was given


class Transformer(nn.Module):
    """Tokens in, next-token logits out; one forward pass for training, scoring and decoding."""

    config: TransformerConfig

    @nn.compact
    def __call__(
        self,
        tokens: Int[Array, "b l"],
        positions: Int[Array, "b l"] | None = None,
        segment_ids: Int[Array, "b l"] | None = None,
        cache: Cache | int | None = None,
    ) -> Output:
        """Logits of the token after each of `tokens`.

        Args:
            tokens: token ids.
            positions: for the rotary embedding; by default the place in the row, cache included.
            segment_ids: tokens see only their own segment; -1 marks padding, which nothing sees
                and no cache keeps. By default every token belongs to segment 0.
            cache: the tokens read before these; or for how many tokens a row to make room, where
                these are the first. A row given more tokens than there is room for comes back as
                NaN, as does one of several segments where a layer carries a state.

        Raises:
            ValueError: a shape that does not fit `tokens`, or a config without `vocab_size`.
        """
        config = self.config
        check_inputs(config, tokens, positions, segment_ids, cache)
        read = by_layer(config, cache)
        context, cache, slots = read_context(config, tokens.shape, positions, segment_ids, cache)
        embed = Embed(config.vocab_size, config.d_model, config.precision, name="embed")
        x = embed(tokens).astype(config.dtype)
        x, chunks = scanned_blocks(config)(config, name="blocks")(x, read, context)
        hidden = Norm(config, name="final_norm")(x)
        if config.tied:
            logits = embed.attend(hidden)
        else:
            precision = config.precision if config.precision.head else PrecisionConfig()
            head = Linear(
                config.vocab_size,
                wide_out=True,
                lora=config.lora,
                precision=precision,
                name="lm_head",
            )
            logits = head(hidden)
        if cache is not None:
            layers = zip(cache.layers, chunks, strict=True)
            cache = cache._replace(layers=tuple(_remembered(*pair, slots) for pair in layers))
            logits = jnp.where(unreadable(cache)[:, None, None], jnp.nan, logits)
        return Output(logits, hidden, cache)


def by_layer(
    config: TransformerConfig, cache: Cache | int | None
) -> tuple[tuple[KV | State, ...] | None, ...]:
    """For each layer of the pattern its state, or keys and values, own part first, then prefixes.

    Without a cache None, and nothing at the start of one.
    """
    if cache is None or isinstance(cache, int):
        return (None if cache is None else (),) * len(config.pattern)
    by_position = zip(*(part.layers for part in parts(cache)), strict=True)
    return tuple(of if isinstance(of[0], KV) else of[:1] for of in by_position)


def _remembered(old: KV | State, new: KV | State, slots: Int[Array, "b l"]) -> KV | State:
    """A layer's part of the cache, with what the tokens added to it."""
    if isinstance(old, KV):
        # Once, after the scan: written within it, the whole cache would be copied each time.
        return write(old, slots, *new)
    return jax.tree.map(lambda a, b: b.astype(a.dtype), old, new)


def read_context(
    config: TransformerConfig,
    shape: tuple[int, int],
    positions: Int[Array, "b l"] | None,
    segment_ids: Int[Array, "b l"] | None,
    cache: Cache | int | None,
) -> tuple[Context, Cache | None, Int[Array, "b l"] | None]:
    """What all layers share; the cache with room made, and the slots that the tokens get in it."""
    if cache is None:
        index = jnp.arange(shape[1])[None, :]
        queries, keys, slots = Tokens(None, segment_ids), (), None
    else:
        if segment_ids is None:
            segment_ids = jnp.zeros(shape, jnp.int32)
        if isinstance(cache, int):
            cache, keys = init_cache(config, shape[0], cache), ()
        else:
            keys = tuple(
                Tokens(first_index(part)[:, None] + jnp.arange(part.slots)[None], part.segment_ids)
                for part in parts(cache)
            )
        cache, slots = advance(cache, segment_ids)
        index = first_index(cache)[:, None] + slots
        queries = Tokens(index, segment_ids)
    positions = index if positions is None else positions
    tables = {}
    for layer in config.pattern:
        key = (layer.rope, layer.rotated)
        if key not in tables:
            tables[key] = rope_table(*key, positions, wide(config.dtype))
    rope = tuple(tables[layer.rope, layer.rotated] for layer in config.pattern)
    return Context(rope, queries, keys), cache, slots


def check_inputs(
    config: TransformerConfig,
    tokens: Int[Array, "b l"],
    positions: Int[Array, "b l"] | None,
    segment_ids: Int[Array, "b l"] | None,
    cache: Cache | int | None,
) -> None:
    """Refuses what does not fit together, by name."""
    if config.vocab_size is None:
        raise ValueError("model.vocab_size must be set before the model is built; got None")
    if tokens.ndim != 2:
        raise ValueError(f"tokens must have shape [batch, length]; got {tokens.shape}")
    for name, ids in (("positions", positions), ("segment_ids", segment_ids)):
        if ids is not None and ids.shape != tokens.shape:
            raise ValueError(
                f"{name} must have the shape of tokens, {tokens.shape}; got {ids.shape}"
            )
    if cache is None:
        return
    if isinstance(cache, int):
        room = cache
    else:
        rows = tokens.shape[0]
        if cache.rows != rows:
            raise ValueError(f"cache must have {rows} rows, as tokens has; got {cache.rows}")
        room = cache.slots if cache.bounded else tokens.shape[1]
    if room < tokens.shape[1]:
        raise ValueError(f"cache must have room for {tokens.shape[1]} tokens; got length {room}")
