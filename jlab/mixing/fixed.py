"""Mixtures that learn nothing: stratified, static, and a schedule by hand or from a run.

Stratified sampling, p_j = 1/m, is the baseline that no earlier method beats on every mixture; a
static mixture is also how the result of an offline method is trained (log-linear static laws, T =
1).
Source: Chen et al., "Aioli", ICLR 2025, Sections 2 and 3 (arXiv 2411.05735).
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jlab.mixing.mixer import check_group_count, check_proportions, make_plan
from jlab.training.mixer import UNTIL_THE_END, Mixer, Observation, Plan


class FixedState(NamedTuple):
    """State of a mixture that never changes."""

    proportions: Float[Array, "m"]  # on the simplex


class ScheduleState(NamedTuple):
    """State of a schedule."""

    entry: Int[Array, ""]  # which entry of the schedule is in force


def stratified() -> Mixer:
    """Every group in equal share, p_j = 1/m, from the first step to the last."""
    return _fixed(lambda m: np.full(m, 1 / m))


def static(proportions: Sequence[float]) -> Mixer:
    """The same given proportions from the first step to the last.

    Args:
        proportions: one share per group; not negative, sum 1.

    Raises:
        ValueError: entries that are no proportions; at `init`, another number of groups.
    """
    written = check_proportions("proportions", proportions)

    def for_groups(m: int) -> np.ndarray:
        check_group_count("proportions", len(written), m)
        return written

    return _fixed(for_groups)


def schedule(steps: Sequence[int], proportions: Sequence[Sequence[float]]) -> Mixer:
    """Piecewise-constant proportions: from step `steps[k]` of the run on, use `proportions[k]`.

    The proportions reach the loader exactly as they are given, so the plans logged by an online
    method replay its run bit for bit. An entry that starts where the next one starts lasts for no
    step.

    Args:
        steps: first step of each entry; the first is 0, and none is smaller than the one before.
        proportions: one row per entry, one share per group.

    Raises:
        ValueError: entries out of order or of unequal number, a row that is no proportions; at
            `init`, another number of groups.
    """
    starts = np.asarray(steps)
    whole = np.issubdtype(starts.dtype, np.integer) and starts.max(initial=0) < UNTIL_THE_END
    if not whole or len(starts) == 0 or starts[0] != 0 or np.any(np.diff(starts) < 0):
        raise ValueError(
            f"steps must be whole numbers below {UNTIL_THE_END} that start at 0 and never decrease;"
            f" got {starts.tolist()}"
        )
    rows = [check_proportions(f"proportions[{k}]", row) for k, row in enumerate(proportions)]
    if len(proportions) != len(starts):
        raise ValueError(
            f"proportions must have one row per entry of steps ({len(starts)}); got {len(rows)}"
        )
    for k, row in enumerate(rows):
        check_group_count(f"proportions[{k}]", len(row), len(rows[0]))
    table = np.stack(rows)
    lengths = np.append(np.diff(starts), UNTIL_THE_END).astype(np.int32)

    def init(key: Array, m: int) -> ScheduleState:
        del key
        check_group_count("proportions[0]", table.shape[1], m)
        return ScheduleState(entry=jnp.zeros((), jnp.int32))

    def plan(state: ScheduleState) -> Plan:
        return make_plan(result(state), jnp.asarray(lengths)[state.entry], evaluate=False)

    def update(state: ScheduleState, observation: Observation) -> tuple[ScheduleState, dict]:
        del observation
        state = ScheduleState(entry=jnp.minimum(state.entry + 1, len(lengths) - 1))
        return state, {"mixing/proportions": result(state)}

    def result(state: ScheduleState) -> Float[Array, "m"]:
        return jnp.asarray(table)[state.entry]

    return Mixer(init, plan, update, result)


def _fixed(for_groups) -> Mixer:
    """A mixer that keeps the proportions `for_groups(m)`."""

    def init(key: Array, m: int) -> FixedState:
        del key
        return FixedState(proportions=jnp.asarray(for_groups(m)))

    def plan(state: FixedState) -> Plan:
        return make_plan(state.proportions, UNTIL_THE_END, evaluate=False)

    def update(state: FixedState, observation: Observation) -> tuple[FixedState, dict]:
        del observation
        return state, {"mixing/proportions": state.proportions}

    def result(state: FixedState) -> Float[Array, "m"]:
        return state.proportions

    return Mixer(init, plan, update, result)
