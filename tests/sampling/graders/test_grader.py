"""Grading many samples of one problem."""

import numpy as np
import pytest

from jlab.sampling import Grader, grade
from jlab.sampling.graders import gsm8k, math
from jlab.sampling.graders.grader import same_or_equivalent

LONG = 200_000  # a reading whose work grows with the square would take minutes
HARD = (
    "####" + "\n" * LONG + "x",
    "#### - $" + " " * LONG + "x",
    "#### " + "9" * LONG + "x",
    "\n" * LONG + "x",
    "The final answer is $1$" + " " * LONG + "x$",
    "The final answer is 5 cm" + " " * LONG + "x",
    "The final answer is 1," + " " * LONG + "x",
    "The final answer is 1^" + " " * LONG + "x",
    "Final Answer: The final answer is " + "9" * LONG + ". I hope it is correct.",
    "\\boxed{" + "{" * LONG,
    "\\boxed{" + "{" * LONG + "}" * LONG + "}",
)


def made(same, symbolic=False) -> Grader:
    return Grader("test", str.strip, str.upper, same, symbolic)


def test_each_different_answer_is_compared_once_and_order_is_kept():
    asked = []

    def same(answer, gold, equivalence):
        asked.append((answer, gold))
        return answer == "b"

    graded = grade(made(same), [" a", "b", "a ", "b"] * 500, "g")
    assert asked == [("a", "G"), ("b", "G")]
    assert graded.answers[:4] == ["a", "b", "a", "b"]
    np.testing.assert_array_equal(graded.correct, [False, True] * 1000)


def test_ten_thousand_samples_with_a_slow_comparison_wait_for_the_different_ones():
    asked = []

    def slow(answer, other, *, strict=False):
        asked.append(answer)
        return answer == "7"

    texts = [str(i % 200) for i in range(10_000)]
    graded = grade(made(same_or_equivalent, symbolic=True), texts, "7.0", slow)
    assert len(asked) == 200
    assert graded.correct.sum() == 50


@pytest.mark.parametrize("grader", [*gsm8k.GRADERS, *math.GRADERS], ids=lambda x: x.name)
@pytest.mark.parametrize("text", HARD, ids=range(len(HARD)))
def test_the_work_of_reading_grows_no_faster_than_the_text(grader, text):
    assert isinstance(grader.extract(text), str)


def test_no_samples_are_no_verdicts():
    graded = grade(made(same_or_equivalent), [], "g")
    assert graded.answers == []
    assert graded.correct.shape == (0,)


def test_an_error_of_the_comparison_is_not_a_wrong_answer():
    def broken(answer, other, *, strict=False):
        raise RuntimeError("no worker")

    with pytest.raises(RuntimeError, match="no worker"):
        grade(made(same_or_equivalent, symbolic=True), ["a"], "g", broken)


def test_a_symbolic_grader_without_an_equivalence_is_refused():
    with pytest.raises(
        ValueError, match=r"grader test needs equivalence=Equivalence\(\); got None"
    ):
        grade(made(same_or_equivalent, symbolic=True), ["a"], "g")
