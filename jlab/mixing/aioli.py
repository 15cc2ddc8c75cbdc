"""Aioli: learn the mixture while training, from how the validation losses answer to short probes.

Its three parts: the linear dynamic law, interleaved probes as the estimator of its matrix
(LearnParams, Algorithm 2), and one step of exponentiated gradient descent per round as the solver
(Algorithm 1). Restricted setting: another mixture trains first, then Aioli takes over.
Source: Chen et al., "Aioli: A Unified Optimization Framework for Language Model Data Mixing",
ICLR 2025, Algorithms 1 and 2 (arXiv 2411.05735).
"""

from dataclasses import replace

from jaxtyping import Array

from jlab.mixing.aioli_config import AioliConfig
from jlab.mixing.compose import OnlineState, linear, online
from jlab.mixing.fixed import static
from jlab.mixing.handover import HandoverState, handover
from jlab.mixing.probes import interleaved_probes
from jlab.mixing.solvers import exponentiated_gradient_solver
from jlab.training.mixer import Mixer


def aioli(config: AioliConfig | None = None, /, **fields: object) -> Mixer:
    """Aioli, with the fields of `AioliConfig` as keyword arguments.

    With `objective` (out-of-domain targets, or groups that matter more) A is first collapsed to
    the row of gains that the weighted losses have, and `normalize` acts on that row; the observed
    `eval_loss` then has one entry per weight. `floor` and `cap` bound the learned proportions, not
    the probes and not the prior. Metrics: see `online`.

    Args:
        config: settings to start from, for instance `released_settings(3)`; the paper's where not
            given.
        **fields: any field of `AioliConfig`, over those of `config`.

    Raises:
        ValueError: a setting out of range; at `init`, one that does not fit the number of groups.

    Example:
        >>> import jax
        >>> mixer = aioli(update_steps=100, sweeps=2, floor=0.05)
        >>> state = mixer.init(jax.random.key(0), 4)
        >>> int(mixer.plan(state).steps)  # the first plan only measures
        0

    Source: Algorithms 1 and 2; restricted setting: Section 6; ablations and objective: Appendix F.
    """
    c = replace(config or AioliConfig(), **fields)
    probes = interleaved_probes(
        c.update_steps,
        c.sweeps,
        c.probe_steps,
        c.one_hot_factor,
        evaluated=None if c.objective is None else len(c.objective),
        diagonal=c.diagonal,
        once=c.static,
    )
    # The released form steps from uniform, z = 0, every time; the paper's from the previous p.
    solver = exponentiated_gradient_solver(
        c.learning_rate, accumulate=c.accumulate, floor=c.floor, cap=c.cap
    )
    learner = online(
        probes, solver, linear, objective=c.objective, normalize=c.normalize, ema=c.ema
    )
    mixer = learner
    if c.prior is not None:
        mixer = handover(static(c.prior), c.prior_steps, learner)

    def init(key: Array, m: int) -> OnlineState | HandoverState:
        c.check_groups(m)
        return mixer.init(key, m)

    return mixer._replace(init=init)
