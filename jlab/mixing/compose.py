"""A method is a triple: the law it assumes, how it sets the law's matrix, and how it solves for p.

    minimise over p  (1/m) sum_i L_i^{T+1}(p)   subject to
    L_i^{t+1}(p) = c_i^t + b_i^t sigma(-sum_j A^t[i, j] p_j^t)

Three exchangeable parts make a method: an `Estimator` gives A^t from what the run shows
(interleaved probes, a graph of one-hot runs, excess losses, gradient products, a bandit's losses),
the law turns A^t into predicted losses (`linear` or `log_linear`), and a `Solver` answers with
proportions (a step of exponentiated gradient descent, or the law's minimum). `online` joins them to
a `Mixer`. Methods whose A comes from finished runs need no loop: they fit a law, minimise it, and
train statically.
Symbols: A -> matrix[n, m] (rows: evaluated, columns: trained; positive lowers the loss).
Source: Chen et al., "Aioli", ICLR 2025, Section 3 (arXiv 2411.05735).
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jlab.mixing.law import Law, LinearLaw, LogLinearLaw
from jlab.mixing.learn_params import normalized
from jlab.training.mixer import Mixer, Observation, Plan

LawOf = Callable[[Float[Array, "n m"]], Law]


class Estimator(NamedTuple):
    """How A^t is set. The state is a NamedTuple with the last finished A as its field `matrix`."""

    init: Callable[[Array, int], Any]  # (key, number of groups m) -> state
    plan: Callable[[Any, Float[Array, "m"]], Plan]  # (state, the solver's proportions) -> plan
    # (state, what came of the plan, the solver's proportions) -> (state, whether A is new)
    update: Callable[[Any, Observation, Float[Array, "m"]], tuple[Any, Bool[Array, ""]]]
    needs: frozenset[str] = frozenset()


class Solver(NamedTuple):
    """How p is found from a law."""

    init: Callable[[int], Any]  # number of groups m -> state
    update: Callable[[Any, Law], Any]  # (state, law of this round) -> state
    result: Callable[[Any], Float[Array, "m"]]  # state -> proportions on the simplex


class OnlineState(NamedTuple):
    """State of a composed method."""

    estimator: Any
    solver: Any
    round: Int[Array, ""]  # how often A has been learned and p solved for
    smoothed: Float[Array, "rows m"]  # exponential average of A as used; zeros before
    total: Float[Array, "m"]  # sum of the proportions of all rounds


def linear(matrix: Float[Array, "n m"]) -> LinearLaw:
    """L^{t+1} = L^t - A p: sigma is the identity; the levels L^t do not matter to a solver."""
    return LinearLaw(jnp.zeros_like(matrix[:, 0]), matrix)


def log_linear(matrix: Float[Array, "n m"]) -> LogLinearLaw:
    """L^{t+1} = c + exp(-A p): sigma is exp; the levels c do not matter to a solver."""
    level = jnp.zeros_like(matrix[:, 0])
    return LogLinearLaw(level, jnp.ones_like(level), matrix)


def online(
    estimator: Estimator,
    solver: Solver,
    law: LawOf = linear,
    *,
    objective: tuple[float, ...] | None = None,
    normalize: bool = False,
    ema: float | None = None,
    average: bool = False,
) -> Mixer:
    """Join estimator, law and solver to a mixing method.

    The metrics are arrays of the same shapes at every update: `mixing/proportions`,
    `mixing/matrix` (A as estimated), `mixing/matrix_used` (A as it enters the law),
    `mixing/round`, and `mixing/round_learned`, true when A and p have just been learned.

    Args:
        estimator: sets A.
        solver: finds p.
        law: A to predicted losses, `linear` or `log_linear`.
        objective: weight of each evaluated loss, where not all count the same: A is collapsed to
            the row of gains of the weighted sum, before `normalize`.
        normalize: scale A to entries that are not negative and sum to 1.
        ema: weight of the older matrices in E = (1 - ema) A + ema E; None: A alone.
        average: `result` is the mean proportions of all rounds, for proxy runs whose average is
            what the final run trains on.

    Raises:
        ValueError: ema outside [0, 1), weights that are none; at `init`, another number of them
            than the estimator has losses.

    Example:
        >>> from jlab.mixing import bandit, exponentiated_gradient_solver
        >>> mixer = online(bandit(), exponentiated_gradient_solver(0.1), log_linear)
        >>> mixer.result(mixer.init(jax.random.key(0), 4))
        Array([0.25, 0.25, 0.25, 0.25], dtype=float32)
    """

    if ema is not None and not 0 <= ema < 1:
        raise ValueError(f"ema must be in [0, 1), or None; got {ema}")
    if objective is not None and not (min(objective) >= 0 and 0 < sum(objective) < math.inf):
        raise ValueError(f"objective must be weights >= 0, not all 0; got {objective}")

    def used(matrix: Float[Array, "n m"]) -> Float[Array, "rows m"]:
        if objective is not None:
            weights = jnp.asarray(objective, matrix.dtype)[:, None]
            matrix = (weights * matrix).sum(0, keepdims=True)
        return normalized(matrix) if normalize else matrix

    def init(key: Array, m: int) -> OnlineState:
        measuring = estimator.init(key, m)
        losses = len(measuring.matrix)
        if objective is not None and len(objective) != losses:
            raise ValueError(
                f"objective must have one weight per evaluated loss: it has {len(objective)},"
                f" there are {losses} losses"
            )
        solving = solver.init(m)
        return OnlineState(
            estimator=measuring,
            solver=solving,
            round=jnp.zeros((), jnp.int32),
            smoothed=jnp.zeros_like(used(measuring.matrix)),
            total=jnp.zeros_like(solver.result(solving)),
        )

    def plan(state: OnlineState) -> Plan:
        return estimator.plan(state.estimator, solver.result(state.solver))

    def update(state: OnlineState, observation: Observation) -> tuple[OnlineState, dict]:
        proportions = solver.result(state.solver)
        measured, learned = estimator.update(state.estimator, observation, proportions)
        state = state._replace(estimator=measured)
        A = used(measured.matrix)
        state = jax.tree.map(lambda new, old: jnp.where(learned, new, old), solve(state, A), state)
        return state, {
            "mixing/proportions": solver.result(state.solver),
            "mixing/matrix": measured.matrix,
            "mixing/matrix_used": A,
            "mixing/round": state.round,
            "mixing/round_learned": learned,
        }

    def solve(state: OnlineState, A: Float[Array, "rows m"]) -> OnlineState:
        # E = A in the first round, then (1 - ema) A + ema E; without ema, E = A always.
        older = jnp.where(state.round == 0, 0.0, ema or 0.0).astype(A.dtype)
        smoothed = (1 - older) * A + older * state.smoothed
        solving = solver.update(state.solver, law(smoothed))
        return state._replace(
            solver=solving,
            round=state.round + 1,
            smoothed=smoothed,
            total=state.total + solver.result(solving),
        )

    def result(state: OnlineState) -> Float[Array, "m"]:
        now = solver.result(state.solver)
        if not average:
            return now
        # Over its own sum, not the number of rounds: float32 loses digits over many steps.
        return jnp.where(state.round > 0, state.total / state.total.sum(), now)

    return Mixer(init, plan, update, result, needs=estimator.needs)
