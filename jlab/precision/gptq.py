"""GPTQ: inputs are quantised in turn, and the ones that follow make up for each one's error.

Which change of the remaining weights keeps the map's outputs best is known from the sums of
products of its inputs alone: with H = U^-1 U^-T, rounding input c of a row of weights by e costs
e^2 / (2 U_cc^2) and is made up for by `weights[j] -= e U_cj / U_cc` for all j > c.

Source: Frantar et al. 2022, arXiv 2210.17323, Algorithm 1; groups, dead inputs, order by size and
the search of grids as in the released code, IST-DASLab/gptq. Symbols: W -> weights.T,
H -> hessian[inputs, inputs], Cholesky(H^-1)^T -> factor, B -> block, E -> errors.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jlab.nn.formats import FloatFormat, IntFormat
from jlab.nn.quant import Grid, decode, encode
from jlab.nn.quantized import Quantized, dequantize, quantized
from jlab.precision.calibration import Moments, read_moments
from jlab.precision.grids import Levels, as_data, check, group_grids, group_numbers

_MOST_DAMPING = 1.0


class _Settings(NamedTuple):
    """What decides the program, besides shapes."""

    group_size: int | None
    block: int
    act_order: bool
    static_groups: bool
    search: bool


def gptq(
    weights: Float[Array, "inputs outputs"],
    calibration: Float[Array, "rows inputs"] | Moments,
    fmt: IntFormat | FloatFormat,
    group_size: int | None = None,
    *,
    damping: float = 0.01,
    block: int = 128,
    act_order: bool = False,
    static_groups: bool = False,
    search: bool = False,
) -> tuple[Float[Array, "inputs outputs"], Quantized, dict[str, Array]]:
    """Quantise a kernel so that its outputs on the calibration inputs change little.

    Maps that read the same inputs are one kernel, side by side: no output sees another.

    Args:
      weights: kernel, `[inputs, outputs]`.
      calibration: rows of inputs, or sums over them (`moments_init`, `add_rows`).
      fmt: number format, on any grid.
      group_size: inputs that share a grid, one per output; None: all of them.
      damping: added to the diagonal of the Hessian, as a share of its mean. Where the Hessian is
        then not positive definite, ten times as much is tried, up to 1.
      block: inputs after which the error is carried over to all that follow. Without groups, or
        with static ones, it changes the time alone. Otherwise grids are made from weights as they
        were at the start of a block.
      act_order: begin with the inputs of the greatest sum of squares. Groups that are not static
        are then neighbours in that order.
      static_groups: the grids are those of the weights as they are given.
      search: shrink the grids for the least error of the weights (`grids.group_grids`).

    Returns:
      What the kernel becomes, in its type; its codes; `damping`: the share that was used;
      `fallback`: True where no share was enough, and the codes are those of rounding to nearest;
      `loss`: the estimate of half the mean squared change of the outputs, summed over them.

    Raises:
      TypeError, ValueError: one line that names the argument.

    Example:
      >>> x = jax.random.normal(jax.random.key(0), (64, 8))
      >>> kernel = jax.random.normal(jax.random.key(1), (8, 4))
      >>> rounded, q, found = gptq(kernel, x, IntFormat(3))
      >>> rounded.shape, q.codes.dtype.name, bool(found["fallback"])
      ((8, 4), 'int8', False)
    """
    check(weights, fmt, group_size)
    if not 0 < damping <= _MOST_DAMPING:
        raise ValueError(f"damping must be above 0 and at most {_MOST_DAMPING}; got {damping}")
    if block < 1:
        raise ValueError(f"block must be at least 1; got {block}")
    dtype = jnp.promote_types(weights.dtype, jnp.float32)
    moments = read_moments(calibration, len(weights), dtype)
    shares = [damping]
    while shares[-1] * 10 <= _MOST_DAMPING:
        shares.append(shares[-1] * 10)
    levels, number = as_data(fmt, dtype)
    settings = _Settings(group_size, min(block, len(weights)), act_order, static_groups, search)
    with jax.default_matmul_precision("highest"):
        codes, grids, group, found = _gptq(
            weights.astype(dtype), moments, jnp.asarray(shares, dtype), levels, number, settings
        )
    q = quantized(codes, grids, group, fmt)
    return dequantize(q, weights.dtype), q, found


@partial(jax.jit, static_argnums=(4, 5))
def _gptq(
    weights: Float[Array, "inputs outputs"],
    moments: Moments,
    shares: Float[Array, "tries"],
    levels: Levels | None,
    number: FloatFormat | None,
    settings: _Settings,
) -> tuple[Array, Grid, Int[Array, "inputs"], dict[str, Array]]:
    fmt = levels if number is None else number
    size = settings.group_size
    hessian = 2 / moments.rows.astype(weights.dtype) * moments.second
    # An input that is always 0 says nothing; its weights become 0 and stay out of the way.
    dead = jnp.diagonal(hessian) == 0
    hessian = hessian + jnp.diag(dead.astype(weights.dtype))
    # As in the released code: only the grid of all inputs comes before the zeros.
    grids = group_grids(weights, fmt, None, settings.search)
    weights = jnp.where(dead[:, None], 0, weights)
    if size is not None:
        grids = group_grids(weights, fmt, size, settings.search)
    order = jnp.arange(len(weights))
    if settings.act_order:
        order = jnp.argsort(-jnp.diagonal(hessian), stable=True)
    group = group_numbers(len(weights), size)
    moving = size is not None and not settings.static_groups
    in_order = group if moving else group[order]
    factor, damping, failed = _inverse_factor(hessian[order][:, order], shares)
    codes, grids, loss = _in_turn(weights[order], factor, grids, in_order, fmt, moving, settings)
    back = jnp.argsort(order)
    found = {"damping": damping, "fallback": failed, "loss": loss}
    return codes[back], grids, in_order[back], found


def _inverse_factor(
    hessian: Float[Array, "n n"], shares: Float[Array, "tries"]
) -> tuple[Float[Array, "n n"], Float[Array, ""], Bool[Array, ""]]:
    """Upper U with U^T U = (H + share mean(diag H) I)^-1, the share, and whether there is none.

    Without one U is the identity, which makes up for nothing: that is rounding to nearest.

    Source: derived; H = A A^T with A upper triangular, from the Cholesky factor of H with rows and
    columns reversed, gives U = A^-1: one inverse of a triangle in place of the paper's inverse and
    second factor.
    """
    eye = jnp.eye(len(hessian), dtype=hessian.dtype)
    mean = jnp.diagonal(hessian).mean()

    def invert(share: Float[Array, ""]) -> Float[Array, "n n"]:
        damped = hessian + share * mean * eye
        lower = jnp.linalg.cholesky(damped[::-1, ::-1])  # NaN where it is not positive definite
        return jax.scipy.linalg.solve_triangular(lower[::-1, ::-1], eye, lower=False)

    def goes_on(state: tuple[Array, Array]) -> Bool[Array, ""]:
        tries, factor = state
        return (tries < len(shares)) & ~jnp.isfinite(factor).all()

    def attempt(state: tuple[Array, Array]) -> tuple[Array, Array]:
        return state[0] + 1, invert(shares[state[0]])

    start = jnp.zeros((), jnp.int32), jnp.full_like(hessian, jnp.nan)
    tries, factor = jax.lax.while_loop(goes_on, attempt, start)
    failed = ~jnp.isfinite(factor).all()
    return jnp.where(failed, eye, factor), shares[tries - 1], failed


def _in_turn(
    weights: Float[Array, "inputs outputs"],
    factor: Float[Array, "inputs inputs"],
    grids: Grid,
    group: Int[Array, "inputs"],
    fmt: Levels | FloatFormat,
    moving: bool,
    settings: _Settings,
) -> tuple[Float[Array, "inputs outputs"], Grid, Float[Array, ""]]:
    """Codes of all inputs, the grids in the end, and the loss. `moving`: grids are made anew."""
    inputs, block = len(weights), settings.block
    missing = -inputs % block
    # Inputs that fill the last block up are 0 and apart from all others.
    weights = jnp.pad(weights, ((0, missing), (0, 0)))
    factor = jnp.pad(factor, (0, missing)) + jnp.diag(
        (jnp.arange(inputs + missing) >= inputs).astype(factor.dtype)
    )
    group = jnp.pad(group, (0, missing), mode="edge")

    def quantise_block(carry: tuple, start: Int[Array, ""]) -> tuple[tuple, Array]:
        weights, grids, loss = carry
        local = jax.lax.dynamic_slice_in_dim(weights, start, block)
        rows = jax.lax.dynamic_slice_in_dim(factor, start, block)
        within = jax.lax.dynamic_slice_in_dim(rows, start, block, axis=1)

        def renew(place: Array, grids: Grid) -> Grid:
            size = settings.group_size
            own = jax.lax.dynamic_slice_in_dim(weights, place, size)
            new = group_grids(own, fmt, None, settings.search)
            at = place // size
            return Grid(*(old.at[at].set(x[0]) for old, x in zip(grids, new, strict=True)))

        def quantise_input(c: Array, state: tuple) -> tuple:
            local, codes, errors, grids = state
            place = start + c
            if moving:
                begins = (place % settings.group_size == 0) & (place < inputs)
                grids = jax.lax.cond(begins, renew, lambda _, same: same, place, grids)
            grid = Grid(grids.step[group[place]], grids.zero[group[place]])
            code = encode(local[c], fmt, grid)
            error = (local[c] - decode(code, grid)) / within[c, c]
            # Row c of the factor is 0 before its diagonal: what is done stays as it is.
            local = local - within[c][:, None] * error[None]
            return local, codes.at[c].set(code), errors.at[c].set(error), grids

        state = local, jnp.zeros_like(local), jnp.zeros_like(local), grids
        _, codes, errors, grids = jax.lax.fori_loop(0, block, quantise_input, state)
        real = (start + jnp.arange(block) < inputs)[:, None]
        loss = loss + jnp.square(jnp.where(real, errors, 0)).sum() / 2
        # What lies before the block's end changes too, and is read no more.
        return (weights - rows.T @ errors, grids, loss), codes

    starts = jnp.arange(0, inputs + missing, block)
    carry = weights, grids, jnp.zeros((), weights.dtype)
    (_, grids, loss), codes = jax.lax.scan(quantise_block, carry, starts)
    return codes.reshape(-1, weights.shape[1])[:inputs], grids, loss
