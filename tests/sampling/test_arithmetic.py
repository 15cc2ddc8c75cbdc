"""The tasks of arithmetic: right answers, one per problem, and a mask that covers just them."""

import re

import jax.numpy as jnp
import numpy as np
import pytest

from jlab.data import make_batch
from jlab.sampling.arithmetic import (
    LENGTHS,
    TASKS,
    Exercise,
    answer_mask,
    exercises,
    text_of,
    windows,
)


def value(terms: str) -> int:
    """A chain of sums and differences, or one product."""
    if "*" in terms:
        x, y = terms.split("*")
        return int(x) * int(y)
    return sum(int(term) for term in re.findall(r"[+-]?\d+", terms))


@pytest.mark.parametrize("task", TASKS)
def test_every_answer_is_right_and_fits_its_window(task):
    for problem in exercises(task, 2000, seed=3):
        shown, number = re.fullmatch(r"(-?\d*)#(-?\d+)\n", problem.answer).groups()
        terms = problem.prompt.removesuffix("?")
        assert int(number) == value(terms), problem
        assert len(problem.prompt + problem.answer) <= LENGTHS[task]
        if task == "equal":
            first = re.match(r"\d+[+-]\d+", terms)[0]
            assert int(shown) == value(first), problem


def test_difficulty_is_mixed_by_drawing_the_number_of_digits_first():
    problems = exercises("mixed", 6000, seed=0)
    sums = [re.fullmatch(r"(\d+)[+-](\d+)\?", x.prompt) for x in problems]
    digits = [tuple(map(len, found.groups())) for found in sums if found]
    # Two thirds of 6000 are sums; each count of digits is a third of them: 5 deviations are 150.
    assert abs(len(digits) - 4000) < 190
    for count in (1, 2, 3):
        assert abs(digits.count((count, count)) - 4000 / 3) < 190


def test_a_seed_gives_its_problems_and_no_other_does():
    first, again, other = (exercises("mixed", 50, seed) for seed in (1, 1, 2))
    assert first == again != other
    assert exercises("mixed", 10, 1) == first[:10]


def test_a_window_holds_one_problem_and_the_loss_counts_its_answer_alone():
    problems = [Exercise("1+2?", "#3\n"), Exercise("10-99?", "#-89\n")]
    packed = windows(problems, 16)
    assert len(packed) == 2
    batch = make_batch([packed], np.zeros(2, int), np.arange(2))
    mask = np.asarray(answer_mask(jnp.asarray(batch.tokens))) * batch.mask
    for problem, targets, counted in zip(problems, batch.targets, mask, strict=True):
        assert text_of(targets[counted == 1]) == problem.answer
    assert not batch.segment_ids.any()
    np.testing.assert_array_equal(batch.positions, np.tile(np.arange(16), (2, 1)))


def test_a_problem_longer_than_the_window_is_refused():
    with pytest.raises(ValueError, match=r"length must be at least 7 for .*; got 6"):
        windows([Exercise("1+2?", "#3\n")], 6)
