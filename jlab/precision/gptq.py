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
from jlab.nn.quant import Grid
from jlab.nn.quantized import Quantized, dequantize, quantized
from jlab.precision.calibration import Moments, read_moments
from jlab.precision.gptq_turns import in_turn
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
    renewal = (size, settings.search) if moving else None
    codes, grids, loss = in_turn(
        weights[order], factor, grids, in_order, fmt, settings.block, renewal
    )
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
