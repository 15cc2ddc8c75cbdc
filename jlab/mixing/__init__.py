"""Data mixing: in which proportions to sample the groups of a corpus, fixed or learned.

Every method is an instance of one problem, minimise the mean final loss subject to a mixing law
that says how the losses answer to the proportions; methods differ in the law, in how its matrix A
is found, and in the solver. Aioli estimates A from the run itself. A method is a `Mixer`, four
pure functions; the training loop does this:

    >>> import jax, jax.numpy as jnp
    >>> mixer = aioli(update_steps=20, sweeps=1, probe_steps=2, one_hot_factor=1.0)
    >>> state, losses = mixer.init(jax.random.key(0), 2), jnp.array([5.0, 5.0])
    >>> for _ in range(4):  # measure, two probes, the rest of the round
    ...     plan = mixer.plan(state)
    ...     counts = 8 * plan.steps * plan.proportions  # windows drawn
    ...     losses = losses - 0.01 * counts * jnp.array([2.0, 1.0])  # what training does
    ...     state, metrics = mixer.update(state, Observation(plan.steps, 1e-3, counts, losses))
    >>> mixer.result(state).round(3)  # training on the first group helps twice as much
    Array([0.517, 0.483], dtype=float32)

Source: Chen et al., "Aioli", ICLR 2025 (arXiv 2411.05735).
"""

from jlab.mixing.aioli import AioliState, aioli
from jlab.mixing.aioli_config import AioliConfig, released_settings
from jlab.mixing.egd import exponentiated_gradient
from jlab.mixing.fixed import schedule, static, stratified
from jlab.mixing.learn_params import estimate_matrix
from jlab.mixing.similarity import matrix_similarity
from jlab.training.mixer import UNTIL_THE_END, Mixer, Observation, Plan

__all__ = [
    "UNTIL_THE_END",
    "AioliConfig",
    "AioliState",
    "Mixer",
    "Observation",
    "Plan",
    "aioli",
    "estimate_matrix",
    "exponentiated_gradient",
    "matrix_similarity",
    "released_settings",
    "schedule",
    "static",
    "stratified",
]
