"""The solvers of online methods: a step of exponentiated gradient descent, or the law's minimum.

Exponentiated gradient descent answers p_j ~ p_j exp(-eta d/dp_j sum_i L_i(p)); under the linear law
that is p_j ~ p_j exp(eta sum_i A[i, j]). Going straight to the minimum is the other way: under the
linear law it lies on a vertex of what floors and caps allow.
Symbols: eta -> learning_rate, t -> round (from 0), c -> smoothing.
Source: Chen et al., "Aioli", ICLR 2025, Section 3 (arXiv 2411.05735).
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jlab.mixing.compose import Law, Solver
from jlab.mixing.egd import keep_within, log_step
from jlab.stats import minimize_on_simplex

# A number, or a function of the round (from 0) and the number of groups.
Rate = float | Callable[[Int[Array, ""], int], Float[Array, ""]]


class GradientState(NamedTuple):
    """State of exponentiated gradient descent."""

    log_proportions: Float[Array, "m"]  # log p, normalised; uniform at first
    round: Int[Array, ""]


class MinimumState(NamedTuple):
    """State of direct minimisation."""

    proportions: Float[Array, "m"]  # on the simplex; uniform at first


def exponentiated_gradient_solver(
    learning_rate: Rate = 0.2,
    *,
    accumulate: bool = True,
    smoothing: Rate = 0.0,
    floor: float = 0.0,
    cap: float = 1.0,
) -> Solver:
    """One step of exponentiated gradient descent per round, on log-proportions.

    Args:
        learning_rate: eta; a number, or a function of the round and the number of groups.
        accumulate: step from the previous proportions; False: from uniform, every round.
        smoothing: share c of uniform mixed in after the step, p <- (1 - c) p + c / m.
        floor: least share of a group.
        cap: greatest share of a group.

    Raises:
        ValueError: a negative rate, a share outside [0, 1]; at `init`, a floor above 1/m or a cap
            below it.
    """
    if not callable(learning_rate) and not (math.isfinite(learning_rate) and learning_rate >= 0):
        raise ValueError(f"learning_rate must be finite and not negative; got {learning_rate}")
    if not callable(smoothing) and not 0 <= smoothing <= 1:
        raise ValueError(f"smoothing must be in [0, 1]; got {smoothing}")

    def init(m: int) -> GradientState:
        _check_bounds(floor, cap, m)
        return GradientState(
            jnp.full(m, -math.log(m), jnp.result_type(float)), jnp.zeros((), jnp.int32)
        )

    def update(state: GradientState, law: Law) -> GradientState:
        log_p = state.log_proportions
        m = len(log_p)
        gain = -jax.grad(lambda p: law.predict(p).sum())(jnp.exp(log_p).astype(law.matrix.dtype))
        start = log_p if accumulate else jnp.zeros_like(log_p)
        log_p = log_step(start, gain, _at(learning_rate, state.round, m, log_p.dtype))
        if callable(smoothing) or smoothing > 0:
            share = _at(smoothing, state.round, m, log_p.dtype)
            log_p = jnp.logaddexp(jnp.log1p(-share) + log_p, jnp.log(share / m))
        if floor > 0 or cap < 1:
            log_p = keep_within(log_p, floor, cap)
        return GradientState(log_p, state.round + 1)

    def result(state: GradientState) -> Float[Array, "m"]:
        return jnp.exp(state.log_proportions)

    return Solver(init, update, result)


def direct_solver(*, floor: float = 0.0, cap: float = 1.0) -> Solver:
    """The proportions of least predicted mean loss, found anew every round.

    Raises:
        ValueError: at `init`, a floor above 1/m or a cap below it.
    """

    def init(m: int) -> MinimumState:
        _check_bounds(floor, cap, m)
        return MinimumState(jnp.full(m, 1 / m, jnp.result_type(float)))

    def update(state: MinimumState, law: Law) -> MinimumState:
        def mean_loss(p: Float[Array, "m"]) -> Float[Array, ""]:
            return law.predict(p).mean()

        best = minimize_on_simplex(mean_loss, len(state.proportions), floor=floor, cap=cap)
        return MinimumState(best.astype(state.proportions.dtype))

    def result(state: MinimumState) -> Float[Array, "m"]:
        return state.proportions

    return Solver(init, update, result)


def _at(rate: Rate, round: Int[Array, ""], m: int, dtype: jnp.dtype) -> Float[Array, ""]:
    return jnp.asarray(rate(round, m) if callable(rate) else rate, dtype)


def _check_bounds(floor: float, cap: float, m: int) -> None:
    if not 0 <= floor * m <= 1:
        raise ValueError(f"floor must be in [0, 1/{m}] with {m} groups; got {floor}")
    if not 1 / m <= cap <= 1:
        raise ValueError(f"cap must be in [1/{m}, 1] with {m} groups; got {cap}")
