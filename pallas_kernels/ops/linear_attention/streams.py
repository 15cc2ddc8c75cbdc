"""The scan's arrays as the Hopper kernel takes them: whole tiles, heads as pairs of streams.

A stream is 64 columns of values: a head of up to 64, or half of one of up to 128. What its state
reads and takes in, its head's queries and keys, is padded to 64 or 128 columns likewise. Zeros
change nothing: they decay nothing and add nothing.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from pallas_kernels.ops.linear_attention.grad import CHUNK
from pallas_kernels.ops.linear_attention.xla import Decays, Queries, State, Values
from pallas_kernels.tiles import LOG2E

WIDTH = 64  # columns of a stream
PAIR = 2  # streams that a block of the kernel carries side by side
MOST = 128  # n and p


def whole_tiles(
    q: Queries, k: Queries, v: Values, log_decay: Decays, state: State
) -> tuple[Array, ...]:
    """The same inputs with zeros added up to whole chunks, streams and pairs.

    The heads of a pair share their queries and keys or have two of them; where an odd number of
    heads of 64 shares them, they are written out per head.
    """
    groups, heads = q.shape[2], v.shape[2]
    n, p = (WIDTH if x.shape[-1] <= WIDTH else MOST for x in (q, v))
    if p == WIDTH and groups < heads and heads // groups % PAIR:
        q, k = (jnp.repeat(x, heads // groups, axis=2) for x in (q, k))
    more = heads % PAIR if p == WIDTH else 0
    more_groups = more if q.shape[2] == heads else 0
    tokens = -v.shape[1] % CHUNK
    q, k = (padded(x, (0, tokens, more_groups, n - x.shape[-1])) for x in (q, k))
    v = padded(v, (0, tokens, more, p - v.shape[-1]))
    rows, columns = n - state.shape[2], p - state.shape[3]
    return q, k, v, padded(log_decay, (0, tokens, more)), padded(state, (0, more, rows, columns))


def exponents(log_decay: Decays, reverse: bool) -> Float[Array, "2 batch chunks tokens heads"]:
    """Base-2 exponents of tokens: how one reads the state before its chunk, and reaches that after.

    In reverse time, "before" is later. The length is that of whole chunks.
    """
    batch, length, heads = log_decay.shape
    total = jnp.cumsum(log_decay.reshape(batch, length // CHUNK, CHUNK, heads) * LOG2E, axis=2)
    both = jnp.stack([total, total[:, :, -1:] - total])
    return both[::-1] if reverse else both


def in_pairs(
    decay: Float[Array, "2 batch chunks tokens heads"], halves: int
) -> Float[Array, "batch pairs chunks 2 pair_tokens"]:
    """`exponents` of the streams, those of a pair side by side."""
    decay = jnp.repeat(decay, halves, axis=-1)
    decay = decay.reshape(*decay.shape[:-1], -1, PAIR)
    decay = decay.transpose(1, 4, 2, 0, 5, 3)  # batch, pair, chunk, which, stream, token
    return decay.reshape(*decay.shape[:4], -1)


def by_stream(
    state: Float[Array, "*batch heads n p"], halves: int
) -> Float[Array, "*batch streams n width"]:
    """The state of each head as those of its streams."""
    *batch, heads, n, _ = state.shape
    split = state.reshape(*batch, heads, n, halves, WIDTH)
    return jnp.moveaxis(split, -2, -3).reshape(*batch, heads * halves, n, WIDTH)


def by_head(
    state: Float[Array, "*batch streams n width"], halves: int
) -> Float[Array, "*batch heads n p"]:
    """The reverse of `by_stream`."""
    *batch, streams, n, _ = state.shape
    split = state.reshape(*batch, streams // halves, halves, n, WIDTH)
    return jnp.moveaxis(split, -3, -2).reshape(*batch, streams // halves, n, halves * WIDTH)


def padded(x: Array, more: tuple[int, ...]) -> Array:
    """Zeros added at the end of each axis."""
    return jnp.pad(x, [(0, m) for m in more]) if any(more) else x
