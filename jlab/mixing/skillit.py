"""Skill-It: follow a graph, measured once by one-hot runs, weighted by the current losses.

Its three parts: the linear dynamic law, the weighted graph as estimator, and a step of
exponentiated gradient descent that starts from uniform every round as solver.
Source: Chen et al., "Skill-it!", NeurIPS 2023 (arXiv 2307.14430), in the form of Chen et al.,
"Aioli", ICLR 2025, Section 3.2, and its released trainer.
"""

from collections.abc import Sequence

import numpy as np

from jlab.mixing.compose import linear, online
from jlab.mixing.fixed import static
from jlab.mixing.graph import uniform_step_from, weighted_graph
from jlab.mixing.solvers import exponentiated_gradient_solver
from jlab.training.mixer import Mixer

Graph = Sequence[Sequence[float]] | np.ndarray


def skillit(
    graph: Graph | None = None,
    learning_rate: float = 0.2,
    *,
    window: int = 3,
    update_steps: int = 500,
    evaluate_every: int | None = None,
) -> Mixer:
    """p_j ~ exp(eta sum_i G[j, i] * (sum of the last w evaluations of L_i)), every U steps.

    Args:
        graph: G[m, n], rows TRAINED group; None: the identity. `learn_graph` makes one from the
            losses of m one-hot runs.
        learning_rate: eta.
        window: w, evaluations that are summed.
        update_steps: U.
        evaluate_every: steps between evaluations; None: U.

    Raises:
        ValueError: a setting out of range; at `init`, a graph of another number of groups.

    Example:
        >>> import jax
        >>> mixer = skillit([[0.5, 0.1], [0.1, 0.3]], update_steps=100)
        >>> int(mixer.plan(mixer.init(jax.random.key(0), 2)).steps)  # measures first
        0
    """
    estimator = weighted_graph(
        graph, update_steps=update_steps, evaluate_every=evaluate_every, window=window
    )
    solver = exponentiated_gradient_solver(learning_rate, accumulate=False)
    return online(estimator, solver, linear)


def skillit_static(graph: Graph, *, learning_rate: float = 0.2) -> Mixer:
    """One step of Skill-It from uniform, every loss counted as 1, kept for the whole run (T = 1).

    Raises:
        ValueError: a graph that is no matrix of finite edges.
    """
    return static(uniform_step_from(np.asarray(graph), learning_rate))
