"""What a token costs to decode, in time and in memory, after a context of some length.

Softmax attention reads the keys and values of the whole context for every token; linear and hybrid
attention read a state whose size is that of the model. The context is really read, so that caches
and states hold what they would hold, and the cache has room for it and the new tokens alone.

Source: LoLCATs, arXiv 2410.10254, Figure 8, which varies the batch and not the context.
"""

import functools
import statistics
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PyTree

from jlab.nn import Cache, Transformer, TransformerConfig, init_cache
from jlab.nn.cache import replace_rows

_CHUNK = 256  # tokens of the context read at a time


class Decoding(NamedTuple):
    """The cost of decoding after one context."""

    context: int  # tokens read before the first new one
    seconds_per_token: float  # of a step for all rows, median over the rounds
    seconds_low: float  # of the fastest round
    seconds_high: float  # of the slowest
    cache_bytes: int  # that the cache holds for a row
    step_bytes: int  # that the compiled steps need besides, for all rows


def measure_decoding(
    config: TransformerConfig,
    variables: PyTree,
    contexts: Sequence[int],
    *,
    batch: int = 1,
    new_tokens: int = 32,
    rounds: int = 5,
    seed: int = 0,
) -> list[Decoding]:
    """The cost of decoding `new_tokens` greedily after each of `contexts`, in their order.

    Args:
      config: of the model.
      variables: the model's, as for `Transformer.apply`.
      contexts: lengths in random tokens; a longer one begins with the shorter ones.
      batch: rows that decode at once.
      new_tokens: steps of one round, in one compiled loop that is compiled before.
      rounds: timings, each from the same cache.
      seed: of the tokens.

    Raises:
      ValueError: for no contexts, or a number below 1.
    """
    _check(contexts, batch, new_tokens, rounds)
    tokens = jax.random.randint(
        jax.random.key(seed), (batch, max(contexts)), 0, config.vocab_size, jnp.int32
    )
    ready, cache, done = [], None, 0
    ascending = sorted(set(contexts))
    for context in ascending:
        following = tokens[:, done:context]
        cache, token = read_context(config, variables, cache, following, context + new_tokens)
        steps = decode.lower(config, new_tokens, variables, cache, token).compile()
        ready.append((steps, cache, token))
        done = context
    seconds = _time(ready, variables, rounds)
    found = {
        context: Decoding(
            context,
            statistics.median(times) / new_tokens,
            min(times) / new_tokens,
            max(times) / new_tokens,
            sum(leaf.nbytes for leaf in jax.tree.leaves(cache)) // batch,
            steps.memory_analysis().temp_size_in_bytes,
        )
        for context, times, (steps, cache, _) in zip(ascending, seconds, ready, strict=True)
    }
    return [found[context] for context in contexts]


def read_context(
    config: TransformerConfig,
    variables: PyTree,
    cache: Cache | None,
    tokens: Int[Array, "b l"],
    length: int,
    chunk: int = _CHUNK,
) -> tuple[Cache, Int[Array, "b"]]:
    """A cache with room for `length` tokens after `cache` and `tokens`, and the likeliest next.

    Reads `chunk` tokens at a time; `cache` is None where there are none before.
    """
    rows = tokens.shape[0]
    longer = init_cache(config, rows, length)
    cache = longer if cache is None else replace_rows(longer, jnp.arange(rows), cache)
    for start in range(0, tokens.shape[1], chunk):
        cache, token = _step(config, variables, cache, tokens[:, start : start + chunk])
    return cache, token


@functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
def _step(
    config: TransformerConfig, variables: PyTree, cache: Cache, tokens: Int[Array, "b l"]
) -> tuple[Cache, Int[Array, "b"]]:
    """One forward pass."""
    out = Transformer(config).apply(variables, tokens, cache=cache)
    return out.cache, out.logits[:, -1].argmax(-1).astype(tokens.dtype)


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=3)
def decode(
    config: TransformerConfig,
    new_tokens: int,
    variables: PyTree,
    cache: Cache,
    token: Int[Array, "b"],
) -> tuple[Cache, Int[Array, "new_tokens b"]]:
    """The loop that is timed: reads `token`, then each time the likeliest token; returns those."""

    def step(carry, _):
        cache, token = _step(config, variables, carry[0], carry[1][:, None])
        return (cache, token), token

    (cache, _), following = jax.lax.scan(step, (cache, token), length=new_tokens)
    return cache, following


def _time(
    ready: list[tuple[Callable, Cache, Array]], variables: PyTree, rounds: int
) -> list[list[float]]:
    """Seconds of every round by context, after a round that is not counted.

    Contexts take turns, so that a slow moment of the machine hits all of them.
    """
    seconds = [[] for _ in ready]
    for _ in range(rounds + 1):
        for times, (steps, cache, token) in zip(seconds, ready, strict=True):
            own = jax.block_until_ready(jax.tree.map(jnp.copy, cache))  # the steps consume it
            begin = time.perf_counter()
            jax.block_until_ready(steps(variables, own, token))
            times.append(time.perf_counter() - begin)
    return [times[1:] for times in seconds]


def _check(contexts: Sequence[int], batch: int, new_tokens: int, rounds: int) -> None:
    if not contexts:
        raise ValueError("contexts must have at least one length; got none")
    numbers = {"contexts": min(contexts), "batch": batch, "new_tokens": new_tokens}
    for name, value in (numbers | {"rounds": rounds}).items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1; got {value}")
