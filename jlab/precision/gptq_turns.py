"""The columns of GPTQ in turn: each input is rounded, and those after it take its error over.

Errors move in three strides, which is only a matter of time: within a part of a block as they come,
to the rest of the block after the part, to all inputs that follow after the block.

Source: Frantar et al. 2022, arXiv 2210.17323, Algorithm 1. Symbols: Cholesky(H^-1)^T -> factor,
E -> errors, B -> block.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jlab.nn.formats import FloatFormat
from jlab.nn.quant import Grid, decode, encode
from jlab.precision.grids import Levels, group_grids

_PART = 32  # inputs; with 512 outputs a part is 64 KB


class _Rules(NamedTuple):
    """What does not change from input to input."""

    inputs: int
    group: Int[Array, "inputs"]
    fmt: Levels | FloatFormat
    part: int
    renewal: tuple[int, bool] | None  # group size and search, where grids are made anew


class _Turn(NamedTuple):
    """A part of a block at work."""

    local: Float[Array, "part outputs"]  # weights, changed by the errors so far
    codes: Float[Array, "part outputs"]
    errors: Float[Array, "part outputs"]  # each by the factor's diagonal
    grids: Grid


def in_turn(
    weights: Float[Array, "inputs outputs"],
    factor: Float[Array, "inputs inputs"],
    grids: Grid,
    group: Int[Array, "inputs"],
    fmt: Levels | FloatFormat,
    block: int,
    renewal: tuple[int, bool] | None,
) -> tuple[Float[Array, "inputs outputs"], Grid, Float[Array, ""]]:
    """Codes of all inputs, the grids in the end, and the loss.

    Args:
      weights: in the order in which inputs take their turn.
      factor: upper triangular U with U^T U the inverse of the Hessian.
      grids: of the groups; those that will be made anew may be anything.
      group: of each input.
      fmt: number format.
      block: inputs after which errors move on to all that follow.
      renewal: group size, and whether to search, where a group's grid is made from the weights as
        they are at the start of the block in which the group begins; None: grids stay.
    """
    inputs, missing = len(weights), -len(weights) % block
    # Inputs that fill the last block up are 0 and apart from all others.
    weights = jnp.pad(weights, ((0, missing), (0, 0)))
    extra = jnp.arange(inputs + missing) >= inputs
    factor = jnp.pad(factor, (0, missing)) + jnp.diag(extra.astype(factor.dtype))
    group = jnp.pad(group, (0, missing), mode="edge")
    part = math.gcd(block, _PART)
    rules = _Rules(inputs, group, fmt, part if part >= 8 else block, renewal)

    def take_block(carry: tuple, start: Int[Array, ""]) -> tuple[tuple, Array]:
        weights, grids, loss = carry
        rows = jax.lax.dynamic_slice_in_dim(factor, start, block)
        codes, errors, grids = _block(rules, weights, rows, start, grids)
        real = (start + jnp.arange(block) < inputs)[:, None]
        loss = loss + jnp.square(jnp.where(real, errors, 0)).sum() / 2
        # What lies before the block's end changes too, and is read no more.
        return (weights - rows.T @ errors, grids, loss), codes

    carry = weights, grids, jnp.zeros((), weights.dtype)
    starts = jnp.arange(0, inputs + missing, block)
    (_, grids, loss), codes = jax.lax.scan(take_block, carry, starts)
    return codes.reshape(weights.shape)[:inputs], grids, loss


def _block(
    rules: _Rules,
    weights: Float[Array, "inputs outputs"],
    rows: Float[Array, "block inputs"],
    start: Int[Array, ""],
    grids: Grid,
) -> tuple[Float[Array, "block outputs"], Float[Array, "block outputs"], Grid]:
    """Codes, errors and grids after the block that begins at an input; `rows` of the factor."""
    block = len(rows)
    local = jax.lax.dynamic_slice_in_dim(weights, start, block)
    within = jax.lax.dynamic_slice_in_dim(rows, start, block, axis=1)

    def take_part(carry: tuple, first: Int[Array, ""]) -> tuple[tuple, tuple]:
        local, grids = carry
        own = jax.lax.dynamic_slice_in_dim(local, first, rules.part)
        strip = jax.lax.dynamic_slice_in_dim(within, first, rules.part)
        corner = jax.lax.dynamic_slice_in_dim(strip, first, rules.part, axis=1)
        turn = _Turn(own, jnp.zeros_like(own), jnp.zeros_like(own), grids)

        def take_input(c: Int[Array, ""], turn: _Turn) -> _Turn:
            return _input(rules, weights, corner, start + first, c, turn)

        turn = jax.lax.fori_loop(0, rules.part, take_input, turn)
        return (local - strip.T @ turn.errors, turn.grids), (turn.codes, turn.errors)

    firsts = jnp.arange(0, block, rules.part)
    (_, grids), found = jax.lax.scan(take_part, (local, grids), firsts)
    codes, errors = (x.reshape(local.shape) for x in found)
    return codes, errors, grids


def _input(
    rules: _Rules,
    weights: Float[Array, "inputs outputs"],
    factor: Float[Array, "part part"],
    first: Int[Array, ""],
    c: Int[Array, ""],
    turn: _Turn,
) -> _Turn:
    """After input c of the part that begins at `first`."""
    local, codes, errors, grids = turn
    place = first + c
    if rules.renewal is not None:
        begins = (place % rules.renewal[0] == 0) & (place < rules.inputs)

        def renew(grids: Grid) -> Grid:
            return _renewed(rules, weights, place, grids)

        grids = jax.lax.cond(begins, renew, lambda same: same, grids)
    grid = Grid(grids.step[rules.group[place]], grids.zero[rules.group[place]])
    code = encode(local[c], rules.fmt, grid)
    error = (local[c] - decode(code, grid)) / factor[c, c]
    # Row c of the factor is 0 before its diagonal: what is done stays as it is.
    local = local - factor[c][:, None] * error[None]
    return _Turn(local, codes.at[c].set(code), errors.at[c].set(error), grids)


def _renewed(
    rules: _Rules, weights: Float[Array, "inputs outputs"], place: Int[Array, ""], grids: Grid
) -> Grid:
    """The grids with that of the group which begins at an input, from its weights."""
    size, search = rules.renewal
    own = jax.lax.dynamic_slice_in_dim(weights, place, size)
    new = group_grids(own, rules.fmt, None, search)
    at = place // size
    return Grid(grids.step.at[at].set(new.step[0]), grids.zero.at[at].set(new.zero[0]))
