"""The estimator of Skill-It: a graph of one-hot runs, weighted by the current losses.

One run per group, trained on that group alone, shows how far each loss falls: the edge from j to i.
While training, A^t[i, j] = L_i^t (L_i^start(1_j) - L_i^end(1_j)) / L_i^start(1_j): a group that is
still badly learned counts for more, and the graph never changes.
Symbols: G -> graph[m, n] (rows: TRAINED group, columns: evaluated; the transpose of A), w ->
window, U -> update_steps.
Source: Chen et al., "Aioli", ICLR 2025, Section 3.2; Chen et al., "Skill-it!", NeurIPS 2023
(arXiv 2307.14430).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jlab.mixing.compose import Estimator
from jlab.mixing.egd import exponentiated_gradient
from jlab.mixing.mixer import make_plan
from jlab.training.mixer import Observation, Plan


class GraphState(NamedTuple):
    """What a weighted graph remembers of the run."""

    step: Int[Array, ""]  # of the run
    seen: Int[Array, ""]  # observations so far
    losses: Float[Array, "window n"]  # of the last evaluations, newest last; zeros before
    matrix: Float[Array, "n m"]  # A of the last round; zeros before


def learn_graph(
    start: Float[np.ndarray, "n"], end: Float[np.ndarray, "m n"]
) -> Float[np.ndarray, "m n"]:
    """The graph G[j, i] = (L_i^start - L_i^end(1_j)) / L_i^start of m one-hot runs.

    Args:
        start: losses before training, the same for every run.
        end: row j holds the losses after training on group j alone.

    Raises:
        ValueError: a loss that is not positive and finite.

    Example:
        >>> learn_graph(np.array([4.0, 2.0]), np.array([[2.0, 2.0], [3.0, 1.0]]))
        array([[0.5 , 0.  ],
               [0.25, 0.5 ]])
    """
    start, end = np.asarray(start, np.float64), np.asarray(end, np.float64)
    if end.ndim != 2 or start.shape != end.shape[1:]:
        raise ValueError(
            f"end must have one row per run and one column for each of {len(start)} losses;"
            f" got the shape {end.shape}"
        )
    if not (np.all(np.isfinite(end)) and np.all(start > 0) and np.all(np.isfinite(start))):
        raise ValueError("start must be positive and finite, and end finite; got other losses")
    return (start[None, :] - end) / start[None, :]


def check_graph(graph: Float[np.ndarray, "m n"]) -> Float[np.ndarray, "m n"]:
    """A graph as it is used: off-diagonal edges of exactly 1 count one half.

    An edge of 1 says that the loss fell to zero, which on another group marks a hand-written
    binary graph; the released code halves those edges.

    Raises:
        ValueError: no matrix, or an entry that is not finite.
    """
    try:
        graph = np.array(graph, np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"graph must be a matrix of numbers; got {graph!r}") from None
    if graph.ndim != 2 or not np.all(np.isfinite(graph)):
        raise ValueError(f"graph must be a matrix of finite edges; got {graph.tolist()}")
    other = ~np.eye(*graph.shape, dtype=bool)
    return np.where(other & (graph == 1), 0.5, graph)


def weighted_graph(
    graph: Float[np.ndarray, "m n"] | None = None,
    *,
    update_steps: int = 500,
    evaluate_every: int | None = None,
    window: int = 3,
) -> Estimator:
    """A^t = G^T, row i times the sum of the last `window` evaluations of loss i.

    The first round counts every loss as 1. An evaluation at the very step where a round begins
    is not used before the next one.

    Args:
        graph: G, see `learn_graph`; None: the identity, each group helps itself alone.
        update_steps: U, steps of a round.
        evaluate_every: steps between evaluations, counted from step 0; None: `update_steps`.
        window: w, evaluations (not rounds) that are summed.

    Raises:
        ValueError: a number below 1; at `init`, a graph of another number of groups.
    """
    edges = None if graph is None else check_graph(graph)
    every = update_steps if evaluate_every is None else evaluate_every
    for name, value in (
        ("update_steps", update_steps),
        ("evaluate_every", every),
        ("window", window),
    ):
        if value < 1:
            raise ValueError(f"{name} must be at least 1; got {value}")

    def init(key: Array, m: int) -> GraphState:
        del key
        if edges is not None and len(edges) != m:
            raise ValueError(f"graph must have a row per group, {m}; it has {len(edges)}")
        n = m if edges is None else edges.shape[1]
        zero = jnp.zeros((), jnp.int32)
        return GraphState(zero, zero, jnp.zeros((window, n)), jnp.zeros((n, m)))

    def plan(state: GraphState, proportions: Float[Array, "m"]) -> Plan:
        step, measured = state.step, state.seen > 0
        to_round = update_steps - step % update_steps
        to_evaluation = every - step % every
        steps = jnp.where(measured, jnp.minimum(to_round, to_evaluation), 0)
        return make_plan(proportions, steps, evaluate=(step + steps) % every == 0)

    def update(
        state: GraphState, observation: Observation, proportions: Float[Array, "m"]
    ) -> tuple[GraphState, Bool[Array, ""]]:
        dtype, m = state.losses.dtype, len(proportions)
        step = jnp.asarray(observation.step, jnp.int32)
        first = state.seen == 0
        learned = first | (step % update_steps == 0)
        weights = jnp.where(first, jnp.ones_like(state.losses[0]), state.losses.sum(0))
        benefit = jnp.eye(m, dtype=dtype) if edges is None else jnp.asarray(edges.T, dtype)
        losses = jnp.roll(state.losses, -1, axis=0).at[-1].set(observation.eval_loss.astype(dtype))
        return GraphState(
            step=step,
            seen=state.seen + 1,
            losses=jnp.where(step % every == 0, losses, state.losses),
            matrix=jnp.where(learned, benefit * weights[:, None], state.matrix),
        ), learned

    return Estimator(init, plan, update, needs=frozenset({"eval_loss"}))


def relative_graph_matrix(
    graph: Float[np.ndarray, "m n"], losses: Float[np.ndarray, "n"]
) -> Float[np.ndarray, "n m"]:
    """A of the linear dynamic law that a graph and the current losses stand for."""
    return check_graph(graph).T * np.asarray(losses, np.float64)[:, None]


def uniform_step_from(
    graph: Float[np.ndarray, "m n"], learning_rate: float
) -> Float[np.ndarray, "m"]:
    """One step of exponentiated gradient descent from uniform, every loss counted as 1."""
    edges = check_graph(graph)
    with jax.enable_x64(True):
        uniform = jnp.full(len(edges), 1 / len(edges))
        return np.asarray(exponentiated_gradient(uniform, jnp.asarray(edges.T), learning_rate))
