"""Data mixing: in which proportions to sample the groups of a corpus, fixed or learned.

Every method is an instance of one problem, minimise the mean final loss subject to a mixing law
that says how the losses answer to the proportions; methods differ in the law, in how its matrix A
is estimated, and in the solver, and each is a few lines that name these three parts. A method is a
`Mixer`, four pure functions; the training loop does this:

    >>> import jax, jax.numpy as jnp
    >>> mixer = aioli(update_steps=20, sweeps=1, probe_steps=2, one_hot_factor=1.0)
    >>> state, losses = mixer.init(jax.random.key(0), 2), jnp.array([5.0, 5.0])
    >>> step = 0
    >>> for _ in range(4):  # measure, two probes, the rest of the round
    ...     plan = mixer.plan(state)
    ...     counts = 8 * plan.steps * plan.proportions  # windows drawn
    ...     losses = losses - 0.01 * counts * jnp.array([2.0, 1.0])  # what training does
    ...     step = step + plan.steps
    ...     state, metrics = mixer.update(state, Observation(step, 1e-3, counts, losses))
    >>> mixer.result(state).round(3)  # training on the first group helps twice as much
    Array([0.517, 0.483], dtype=float32)

Offline methods take a table of runs instead: `static(fit_log_linear_law(p, loss).minimize())` is
`dml(p, loss)`.
Source: Chen et al., "Aioli", ICLR 2025 (arXiv 2411.05735).
"""

from jlab.mixing.aioli import aioli
from jlab.mixing.aioli_config import AioliConfig, released_settings
from jlab.mixing.bandit import bandit
from jlab.mixing.compose import Estimator, OnlineState, Solver, linear, log_linear, online
from jlab.mixing.cover import dirichlet_samples, repetition_caps, simplex_cover
from jlab.mixing.doge import doge
from jlab.mixing.doremi import doremi
from jlab.mixing.egd import exponentiated_gradient
from jlab.mixing.excess_loss import excess_loss
from jlab.mixing.fit_law import fit_linear_law, fit_log_linear_law
from jlab.mixing.fixed import schedule, static, stratified
from jlab.mixing.gradient_products import gradient_products
from jlab.mixing.graph import learn_graph, weighted_graph
from jlab.mixing.handover import handover
from jlab.mixing.law import LinearLaw, LogLinearLaw
from jlab.mixing.law_bootstrap import LawBootstrap, bootstrap_law
from jlab.mixing.law_quality import Quality, law_quality
from jlab.mixing.law_scale import fit_scale, two_group_matrix
from jlab.mixing.learn_params import estimate_matrix
from jlab.mixing.odm import odm
from jlab.mixing.offline import dml, grid_search, regmix
from jlab.mixing.probes import interleaved_probes
from jlab.mixing.regressor import RegressorLaw, fit_regressor
from jlab.mixing.similarity import matrix_similarity
from jlab.mixing.skillit import skillit, skillit_static
from jlab.mixing.solvers import direct_solver, exponentiated_gradient_solver
from jlab.training.mixer import UNTIL_THE_END, Mixer, Observation, Plan

__all__ = [
    "UNTIL_THE_END",
    "AioliConfig",
    "Estimator",
    "LawBootstrap",
    "LinearLaw",
    "LogLinearLaw",
    "Mixer",
    "Observation",
    "OnlineState",
    "Plan",
    "Quality",
    "RegressorLaw",
    "Solver",
    "aioli",
    "bandit",
    "bootstrap_law",
    "direct_solver",
    "dirichlet_samples",
    "dml",
    "doge",
    "doremi",
    "estimate_matrix",
    "excess_loss",
    "exponentiated_gradient",
    "exponentiated_gradient_solver",
    "fit_linear_law",
    "fit_log_linear_law",
    "fit_regressor",
    "fit_scale",
    "gradient_products",
    "grid_search",
    "handover",
    "interleaved_probes",
    "law_quality",
    "learn_graph",
    "linear",
    "log_linear",
    "matrix_similarity",
    "odm",
    "online",
    "regmix",
    "released_settings",
    "repetition_caps",
    "schedule",
    "simplex_cover",
    "skillit",
    "skillit_static",
    "static",
    "stratified",
    "two_group_matrix",
    "weighted_graph",
]
