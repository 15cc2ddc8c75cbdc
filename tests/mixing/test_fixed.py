"""Mixtures that learn nothing."""

import jax
import numpy as np
import pytest

from jlab.mixing import UNTIL_THE_END, Observation, schedule, static, stratified
from tests.mixing.strategies import in_float64

KEY = jax.random.key(0)


def observe(m: int) -> Observation:
    return Observation(np.int32(0), np.float32(0), np.zeros(m, np.int32))


def test_stratified_gives_every_group_the_same_share_to_the_end():
    plan = stratified().plan(stratified().init(KEY, 4))
    np.testing.assert_array_equal(plan.proportions, [0.25] * 4)
    np.testing.assert_array_equal(plan.loss_weights, [1] * 4)
    assert plan.steps == UNTIL_THE_END
    assert not plan.evaluate


def test_static_passes_its_proportions_on_unchanged():
    mixer = static([0.1, 0.0, 0.9])
    state, _ = mixer.update(mixer.init(KEY, 3), observe(3))
    np.testing.assert_array_equal(mixer.plan(state).proportions, np.float32([0.1, 0.0, 0.9]))
    np.testing.assert_array_equal(mixer.result(state), np.float32([0.1, 0.0, 0.9]))


@in_float64
def test_a_schedule_changes_at_its_steps_and_keeps_its_last_entry():
    table = [[0.5, 0.5], [1 / 3, 2 / 3], [0.9, 0.1]]
    mixer = schedule([0, 10, 10 + 7], table)
    state = mixer.init(KEY, 2)
    for entry, steps in enumerate([10, 7, UNTIL_THE_END, UNTIL_THE_END]):
        plan = mixer.plan(state)
        assert plan.steps == steps
        np.testing.assert_array_equal(plan.proportions, table[min(entry, 2)])  # to the last bit
        state, _ = mixer.update(state, observe(2))


def test_an_entry_of_a_schedule_may_last_for_no_step():
    mixer = schedule([0, 0, 5], [[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]])
    assert mixer.plan(mixer.init(KEY, 2)).steps == 0


@pytest.mark.parametrize(
    ("proportions", "message"),
    [
        (
            [0.5, 0.4],
            r"must sum to 1; got \[0.5, 0.4\], which sums to 0.9: divide every entry by 0.9",
        ),
        ([3, 1], r"must sum to 1; got \[3.0, 1.0\], which sums to 4: divide every entry by 4"),
        ([0.0, 0.0], r"must sum to 1; got \[0.0, 0.0\], which sums to 0"),
        ([1.5, -0.5], r"must be finite and not negative; got \[1.5, -0.5\]"),
        ([float("nan"), 1.0], "must be finite and not negative"),
        ([], "must be one number per group"),
        ([[0.5, 0.5]], "must be one number per group"),
    ],
)
def test_what_is_no_mixture_is_refused_by_name(proportions, message):
    with pytest.raises(ValueError, match=f"^proportions {message}"):
        static(proportions)


def test_written_rounding_of_proportions_is_accepted():
    static([0.1428571] * 7)  # sevenths with seven digits: the sum misses 1 by 3e-7


def test_another_number_of_groups_is_refused_with_both_numbers():
    with pytest.raises(ValueError, match="one entry per group: it has 2, there are 3 groups"):
        static([0.5, 0.5]).init(KEY, 3)
    with pytest.raises(ValueError, match="one entry per group: it has 2, there are 3 groups"):
        schedule([0], [[0.5, 0.5]]).init(KEY, 3)


@pytest.mark.parametrize(
    ("steps", "rows", "message"),
    [
        ([5], [[1.0]], r"steps must be whole numbers .* start at 0 .* got \[5\]"),
        ([0, 9, 8], [[1.0]] * 3, r"never decrease; got \[0, 9, 8\]"),
        ([0, 2**31], [[1.0]] * 2, r"below 2147483647 .* got \[0, 2147483648\]"),
        ([0.0, 0.5], [[1.0]] * 2, "steps must be whole numbers"),
        ([], [], "steps must be whole numbers"),
        ([0, 5], [[1.0]], r"one row per entry of steps \(2\); got 1"),
        ([0, 5], [[1.0], [0.5, 0.5]], r"proportions\[1\] must have one entry per group: it has 2"),
        ([0, 5], [[1.0], [0.5]], r"proportions\[1\] must sum to 1"),
    ],
)
def test_a_schedule_out_of_order_is_refused_by_name(steps, rows, message):
    with pytest.raises(ValueError, match=message):
        schedule(steps, rows)
