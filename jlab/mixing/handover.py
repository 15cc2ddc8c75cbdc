"""One method first, another from a given step on: the restricted setting.

A method that learned its mixture on a small budget trains the first steps, and a method that needs
no extra run, such as Aioli, takes over.
Source: Chen et al., "Aioli", ICLR 2025, Sections 5 and 6 (arXiv 2411.05735).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jlab.training.mixer import IN_STEP, Mixer, Observation, Plan


class HandoverState(NamedTuple):
    """States of both methods."""

    first: Any
    second: Any
    left: Int[Array, ""]  # steps until the second takes over


def handover(first: Mixer, steps: int, second: Mixer) -> Mixer:
    """Train `steps` steps with the first method, then go on with the second.

    The second starts as it would at step 0, from its own state; the first is not told what came
    of a plan that the hand-over cut short. Metrics are the second's; before the hand-over those
    that the first has too are the first's, and the others are zero.

    Args:
        first: for instance `static(p)`, or Skill-It.
        steps: of the first; at least 1.
        second: for instance Aioli.

    Raises:
        ValueError: steps below 1, or a method that lives in the training step.
    """
    if steps < 1:
        raise ValueError(f"steps of the first method must be at least 1; got {steps}")
    needs = first.needs | second.needs
    if needs & IN_STEP:
        raise ValueError(
            "handover takes methods that choose what is sampled; one of these reweights the loss"
            f" in every step (it needs {', '.join(sorted(needs & IN_STEP))})"
        )

    def init(key: Array, m: int) -> HandoverState:
        return HandoverState(first.init(key, m), second.init(key, m), jnp.int32(steps))

    def plan(state: HandoverState) -> Plan:
        one, two = first.plan(state.first), second.plan(state.second)
        before = state.left > 0
        one = one._replace(
            steps=jnp.minimum(one.steps, state.left),
            evaluate=one.evaluate & (one.steps <= state.left),
        )
        return jax.tree.map(lambda a, b: jnp.where(before, a.astype(b.dtype), b), one, two)

    def update(state: HandoverState, observation: Observation) -> tuple[HandoverState, dict]:
        planned, before = first.plan(state.first).steps, state.left > 0
        one, said = first.update(state.first, observation)
        two, metrics = second.update(state.second, observation)
        whole = before & (planned <= state.left)
        state = HandoverState(
            first=_choose(whole, one, state.first),
            second=_choose(before, state.second, two),
            left=state.left - jnp.where(before, jnp.minimum(planned, state.left), 0),
        )
        zeros = {name: jnp.zeros_like(value) for name, value in metrics.items()}
        shared = {name: said[name] for name in metrics if name in said}
        metrics = _choose(before, {**zeros, **shared}, metrics)
        return state, metrics

    def result(state: HandoverState) -> Float[Array, "m"]:
        return jnp.where(state.left > 0, first.result(state.first), second.result(state.second))

    return Mixer(init, plan, update, result, needs=needs)


def _choose(condition: Array, one: Any, other: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), one, other)
