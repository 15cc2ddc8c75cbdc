"""Codebooks with trained rows: each row by itself, all through one matrix, or none at all."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from jlab.vq.axes import ALONE, Axes
from jlab.vq.codebooks import (
    Assigned,
    Codebook,
    Start,
    check_book,
    first_rows,
    lookup_of,
    needed,
    once,
)
from jlab.vq.kmeans import random_tokens, statistics, token_means, unit_rows


class LearnedState(NamedTuple):
    """Of a `learned` codebook."""

    moved: Float[Array, "codes d"]  # added to the trained rows: k-means and expiry set it
    counts: Float[Array, "codes"]  # running number of the tokens of each code
    started: Bool[Array, ""]  # whether data has set the rows


def learned(
    size: int,
    dim: int,
    *,
    cosine: bool = False,
    decay: float = 0.8,
    expire: float = 0.0,
    kmeans: int = 0,
    init: Start = "uniform",
    precise: bool = False,
    axes: Axes = ALONE,
) -> Codebook:
    """Rows are parameters, and the codebook loss moves them.

    What is read is `params["vectors"]` plus an offset in the state, by which k-means and expiry set
    rows without the optimiser's knowing.

    Args:
      size: number of codes K.
      dim: channels d.
      cosine: tokens and rows are compared at unit length.
      decay: of the counts that `expire` goes by.
      expire: a row whose running count is below it becomes a random token of the batch (0: none).
      kmeans: iterations of k-means on the first batch that set the rows (0: data does not).
      init: as of `ema`; U(+-1 / K) is VQGAN's.
      precise: lookup by summed differences, see `nearest`.
      axes: what is split over devices inside `shard_map`.

    Raises:
      ValueError: a value out of its range, by name.

    Source: Section 5.2; Esser et al., VQGAN, arXiv 2012.09841.
    """
    check_book(size, dim, init, expire, kmeans, decay)

    def first(key: Array) -> tuple[PyTree, LearnedState]:
        rows = first_rows(key, size, dim, init)
        # From `expire` at least: no row expires before tokens had a chance to choose it.
        counts = jnp.full(size, max(1.0, expire), rows.dtype)
        return {"vectors": rows}, LearnedState(jnp.zeros_like(rows), counts, jnp.bool_(False))

    def vectors(params: PyTree, state: LearnedState) -> Float[Array, "codes d"]:
        rows = params["vectors"] + state.moved
        return unit_rows(rows) if cosine else rows

    def placed(params: PyTree, state: LearnedState, rows: Array, which: Array, n: Array):
        offset = rows - jax.lax.stop_gradient(params["vectors"])
        return state._replace(
            moved=jnp.where(which[:, None], offset, state.moved),
            counts=jnp.where(which, n, state.counts),
        )

    def update(params: PyTree, state: LearnedState, seen: Assigned, key: Array | None):
        if not expire:
            return state
        tokens, local = seen.tokens.astype(state.moved.dtype), len(state.counts)
        _, number = statistics(tokens, seen.ids, seen.mask, local, axes)
        n = decay * state.counts + (1 - decay) * number
        fresh, there = random_tokens(needed(key), tokens, seen.mask, local, axes)
        after = state._replace(counts=jnp.where(there, n, state.counts))
        return placed(params, after, fresh, (n < expire) & there, jnp.full_like(n, expire))

    def start(params: PyTree, state: LearnedState, tokens: Array, mask: Array, key: Array | None):
        def from_data(state: LearnedState) -> LearnedState:
            wide = tokens.astype(state.moved.dtype)
            means, n = token_means(needed(key), wide, mask, len(state.counts), kmeans, axes, cosine)
            done = state._replace(started=jnp.ones_like(state.started))
            return placed(params, done, means, jnp.ones(len(n), bool), n)

        return once(kmeans, state, mask, from_data, axes)

    lookup = lookup_of(vectors, cosine, precise, axes)
    return Codebook(first, lookup, update, start, vectors, size, dim, cosine, trained=True)


class FixedState(NamedTuple):
    """Rows that nothing changes."""

    vectors: Float[Array, "codes d"]


def simvq(size: int, dim: int, *, precise: bool = False, axes: Axes = ALONE) -> Codebook:
    """Rows are F W' with F frozen and one trained matrix W: all rows move with every token.

    Train with commitment 0.25 and codebook weight 1. F and W start from N(0, 1 / d) and torch's
    uniform +-1 / sqrt(d).

    Args:
      size: number of codes K.
      dim: channels d.
      precise: lookup by summed differences, see `nearest`.
      axes: what is split over devices inside `shard_map`.

    Raises:
      ValueError: no codes or channels.

    Source: Zhu et al., "Addressing Representation Collapse in Vector Quantized Models with One
    Linear Layer", arXiv 2411.02038, Algorithm 1.
    """
    check_book(size, dim, "normal", 0, 0, 0)

    def first(key: Array) -> tuple[PyTree, FixedState]:
        rows, matrix = jax.random.split(key)
        bound = dim**-0.5
        w = jax.random.uniform(matrix, (dim, dim), minval=-bound, maxval=bound)
        return {"kernel": w}, FixedState(first_rows(rows, size, dim, "normal"))

    def vectors(params: PyTree, state: FixedState) -> Float[Array, "codes d"]:
        return state.vectors @ params["kernel"].T

    return _unmoved(first, vectors, size, dim, precise, axes, unit=False, trained=True)


def fixed(
    size: int, dim: int, *, cosine: bool = True, precise: bool = False, axes: Axes = ALONE
) -> Codebook:
    """Rows are random and stay as they are.

    Args:
      size: number of codes K.
      dim: channels d.
      cosine: tokens and rows are compared at unit length.
      precise: lookup by summed differences, see `nearest`.
      axes: what is split over devices inside `shard_map`.

    Raises:
      ValueError: no codes or channels.

    Source: Chiu et al., "Self-supervised Learning with Random-projection Quantizer", arXiv
    2202.01855, Section 3.
    """
    check_book(size, dim, "normal", 0, 0, 0)

    def first(key: Array) -> tuple[PyTree, FixedState]:
        rows = first_rows(key, size, dim, "normal")
        return {}, FixedState(unit_rows(rows) if cosine else rows)

    def vectors(params: PyTree, state: FixedState) -> Float[Array, "codes d"]:
        return state.vectors

    return _unmoved(first, vectors, size, dim, precise, axes, unit=cosine, trained=False)


def _unmoved(first, vectors, size, dim, precise, axes, *, unit: bool, trained: bool) -> Codebook:
    """A codebook whose state never changes."""

    def update(params: PyTree, state: PyTree, seen: Assigned, key: Array | None) -> PyTree:
        return state

    def start(params: PyTree, state: PyTree, tokens: Array, mask: Array, key: Array | None):
        return state

    lookup = lookup_of(vectors, unit, precise, axes)
    return Codebook(first, lookup, update, start, vectors, size, dim, unit, trained)
