"""Codebooks: the rows that tokens are compared with, and how they follow the tokens.

A `Codebook` is a few pure functions over trained parameters and a state that no gradient reaches.
Rows of `ema` are running means of their tokens; `jlab.vq.learned` has rows that gradients move.
"""

from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from jlab.vq.axes import ALONE, Axes, total
from jlab.vq.checks import require, require_not_negative
from jlab.vq.kmeans import random_tokens, statistics, token_means, unit_rows
from jlab.vq.lookup import nearest

Start = Literal["kaiming", "uniform", "normal"]
Unused = Literal["decay", "freeze"]


class Assigned(NamedTuple):
    """What a codebook learns from: the tokens that it was compared with, and their codes."""

    tokens: Float[Array, "n d"]
    ids: Int[Array, "n"]
    mask: Bool[Array, "n"]


class Codebook(NamedTuple):
    """Pure functions; `params` are trained by gradient, `state` is not."""

    init: Callable[[Array], tuple[PyTree, PyTree]]  # key -> params, state
    lookup: Callable[..., tuple[Array, Array]]  # params, state, tokens[n, d] -> ids[n], q[n, d]
    update: Callable[..., PyTree]  # params, state, Assigned, key -> state
    start: Callable[..., PyTree]  # params, state, tokens, mask, key -> state, set from first data
    vectors: Callable[..., Array]  # params, state -> rows [codes, d]
    size: int
    dim: int
    unit: bool  # tokens and rows are compared at unit length: by cosine similarity
    trained: bool  # rows have gradients


class EMAState(NamedTuple):
    """Of an `ema` codebook; float32, whatever the model computes in."""

    vectors: Float[Array, "codes d"]
    sums: Float[Array, "codes d"]  # m: running sum of the tokens of each code
    counts: Float[Array, "codes"]  # n: running number of the tokens of each code
    started: Bool[Array, ""]  # whether data has set the rows


def ema(
    size: int,
    dim: int,
    *,
    decay: float = 0.8,
    eps: float = 1e-5,
    counts: float = 1.0,
    cosine: bool = False,
    unused: Unused = "decay",
    floor: float = 1e-3,
    expire: float = 0.0,
    kmeans: int = 0,
    init: Start = "kaiming",
    precise: bool = False,
    axes: Axes = ALONE,
) -> Codebook:
    """Rows are running means of their tokens.

    n <- decay n + (1 - decay) count, m <- decay m + (1 - decay) sum, row = m / n~ with Laplace
    smoothing n~ = (n + eps) / (N + K eps) N, where N is the sum of all n.

    Args:
      size: number of codes K.
      dim: channels d.
      decay: of the running sums. Defaults are the rotation trick's released code's.
      eps: of the smoothing.
      counts: n of every code at the start, with m its row: 1 as lucidrains' library, 0 as that
        release. With 0 an unused row grows 80,000-fold in one step and then falls back through the
        range of the data; with 1 it stays for some 40 steps and then decays to zero.
      cosine: tokens and rows at unit length; m sums the tokens.
      unused: what becomes of rows without tokens: "decay", as released, or "freeze": a row whose n
        is below `floor` stays where it is until tokens choose it again.
      floor: of "freeze".
      expire: a row whose n is below it becomes a random token of the batch, with n = expire
        (0: none does). Above `counts` it takes rows with few tokens already in the first step, as
        lucidrains' library does; k-means first, or `counts` as high, does not.
      kmeans: iterations of k-means on the first batch that set the rows (0: data does not).
      init: kaiming: U(+-sqrt(6 / (K d))), all rows near zero; uniform: U(+-1 / K); normal:
        N(0, 1 / d).
      precise: lookup by summed differences, see `nearest`.
      axes: what is split over devices inside `shard_map`.

    Raises:
      ValueError: a value out of its range, by name.

    Source: Section 5.1; van den Oord et al., arXiv 1711.00937, Appendix A.1; k-means and expiry:
    Zeghidour et al., "SoundStream", arXiv 2107.03312, Section III.C.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> book = ema(size=4, dim=2, expire=0.5)
      >>> params, state = book.init(jax.random.key(0))
      >>> tokens = jax.random.normal(jax.random.key(1), (64, 2))
      >>> ids, q = book.lookup(params, state, tokens)
      >>> seen = Assigned(tokens, ids, jnp.ones(64, bool))
      >>> state = book.update(params, state, seen, jax.random.key(2))
    """
    check_book(size, dim, init, expire, kmeans, decay)
    require(unused in get_args(Unused), "unused", unused, "decay or freeze")
    require_not_negative(eps=eps, counts=counts, floor=floor)

    def first(key: Array) -> tuple[PyTree, EMAState]:
        rows = first_rows(key, size, dim, init)
        rows = unit_rows(rows) if cosine else rows
        return {}, EMAState(rows, rows, jnp.full(size, counts, rows.dtype), jnp.bool_(False))

    def vectors(params: PyTree, state: EMAState) -> Float[Array, "codes d"]:
        return state.vectors

    def update(params: PyTree, state: EMAState, seen: Assigned, key: Array | None) -> EMAState:
        tokens = seen.tokens.astype(state.sums.dtype)
        sums, number = statistics(tokens, seen.ids, seen.mask, len(state.vectors), axes)
        n = decay * state.counts + (1 - decay) * number
        m = decay * state.sums + (1 - decay) * sums
        everyone = total(n.sum(), axes.codes)
        smooth = (n + eps) / (everyone + size * eps) * everyone
        rows = m / jnp.where(smooth > 0, smooth, 1)[:, None]
        rows = unit_rows(rows) if cosine else rows
        if unused == "freeze":
            rows = jnp.where((n >= floor)[:, None], rows, state.vectors)
        after = EMAState(rows, m, n, state.started)
        if expire:
            fresh, there = random_tokens(needed(key), tokens, seen.mask, len(rows), axes)
            after = placed(after, fresh, (n < expire) & there, jnp.full_like(n, expire))
        # Where no token was seen nothing decays either: a level of a residual that is left out.
        any_token = total(seen.mask.sum(), axes.tokens) > 0
        return jax.tree.map(partial(jnp.where, any_token), after, state)

    def placed(state: EMAState, rows: Array, which: Array, n: Array) -> EMAState:
        """Some rows set anew, with sums that agree with them."""
        return state._replace(
            vectors=jnp.where(which[:, None], rows, state.vectors),
            sums=jnp.where(which[:, None], rows * n[:, None], state.sums),
            counts=jnp.where(which, n, state.counts),
        )

    def start(params: PyTree, state: EMAState, tokens: Array, mask: Array, key: Array | None):
        def from_data(state: EMAState) -> EMAState:
            tokens_ = tokens.astype(state.sums.dtype)
            means, n = token_means(
                needed(key), tokens_, mask, len(state.vectors), kmeans, axes, cosine
            )
            return placed(state, means, jnp.ones(len(n), bool), n)._replace(
                started=jnp.ones_like(state.started)
            )

        return once(kmeans, state, mask, from_data, axes)

    lookup = lookup_of(vectors, cosine, precise, axes)
    return Codebook(first, lookup, update, start, vectors, size, dim, cosine, trained=False)


def lookup_of(vectors: Callable[..., Array], unit: bool, precise: bool, axes: Axes) -> Callable:
    """The lookup of a codebook; gradients of q reach its trained rows."""

    def lookup(params: PyTree, state: PyTree, tokens: Float[Array, "n d"]):
        rows = vectors(params, state)
        compared, tokens = jax.lax.stop_gradient((rows, tokens))
        return nearest(compared, tokens, values=rows, unit=unit, precise=precise, axes=axes)

    return lookup


def once(kmeans: int, state: PyTree, mask: Array, from_data: Callable, axes: Axes) -> PyTree:
    """The state set from data, if it should be and has not been; later batches leave it."""
    if not kmeans:
        return state
    due = ~state.started & (total(mask.sum(), axes.tokens) > 0)
    return jax.lax.cond(due, from_data, lambda state: state, state)


def needed(key: Array | None) -> Array:
    """The key; k-means and expiry draw tokens at random.

    Raises:
      ValueError: there is none.
    """
    if key is None:
        raise ValueError("key must be given where kmeans or expire is set; got None")
    return key


def first_rows(key: Array, size: int, dim: int, init: Start) -> Float[Array, "codes d"]:
    """Rows before any data."""
    if init == "normal":
        return jax.random.normal(key, (size, dim)) / dim**0.5
    bound = (6 / (size * dim)) ** 0.5 if init == "kaiming" else 1 / size
    return jax.random.uniform(key, (size, dim), minval=-bound, maxval=bound)


def check_book(size: int, dim: int, init: Start, expire: float, kmeans: int, decay: float) -> None:
    """Refuse what no codebook can be made of.

    Raises:
      ValueError: by name.
    """
    for name, value, least in (("size", size, 1), ("dim", dim, 1), ("kmeans", kmeans, 0)):
        require(least <= value, name, value, f">= {least}")
    require(size < 2**31, "size", size, "under 2^31")  # ids are int32
    require(0 <= decay < 1, "decay", decay, "in [0, 1)")
    require_not_negative(expire=expire)
    require(init in get_args(Start), "init", init, f"one of {', '.join(get_args(Start))}")
