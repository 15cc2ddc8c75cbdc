"""The released grader of MATH, to its oddities; its verdicts are golden cases."""

import pytest

from jlab.sampling import grade
from jlab.sampling.graders import math

STATED = "Final Answer: The final answer is ${}$. I hope it is correct."


def strings_only(answer, other, *, strict=False):
    return False


@pytest.mark.parametrize(
    ("answer", "normal"),
    [
        (r"\infty", r"\iny"),  # "ft" is deleted within words
        (r"\left(1\right)", r"\le(1\right)"),
        ("pan 3", "p3"),
        ("3,4", "34"),
        ("x=y=3", "3"),
        (r"\frac12", r"\frac{1}{2}"),
        (r"\text{ cm}", ""),
    ],
)
def test_oddities_of_the_normal_form(answer, normal):
    assert math.normalize(answer) == normal


def test_a_final_sentence_on_two_lines_is_invalid():
    assert math.final_answer("Final Answer: The final answer is $1$.\nI hope") == math.INVALID


def test_a_sentence_cut_after_its_dot_and_blank_is_completed():
    assert math.final_answer("Final Answer: The final answer is $1$. ") == "$1$"


@pytest.mark.parametrize(
    ("solution", "answer"),
    [
        (r"first \boxed{1}, then \boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed 5$ and \boxed{6}", "5"),  # with a space it wins, wherever it stands
    ],
)
def test_the_gold_answer_is_the_last_box(solution, answer):
    assert math.boxed_answer(solution) == answer


@pytest.mark.parametrize("solution", ["", "5", r"\boxed{5", r"\fbox{5}", r"\boxed5 and {6}"])
def test_gold_solutions_on_which_the_released_code_crashes_are_refused(solution):
    with pytest.raises(ValueError, match=r"gold must hold \\boxed\{answer\}; got"):
        math.MINERVA.gold(solution)


def test_commas_make_the_released_grader_accept_a_wrong_answer_and_not_the_strict_one():
    stated = [STATED.format("34")]
    assert grade(math.MINERVA, stated, r"\boxed{3,4}", strings_only).correct.all()
    assert not grade(math.STRICT, stated, r"\boxed{3,4}", strings_only).correct.any()


def test_reading_in_part_makes_the_released_grader_accept_a_base_and_not_the_strict_one(
    equivalence,
):
    stated = [STATED.format("12_3")]
    assert grade(math.MINERVA, stated, r"\boxed{12}", equivalence).correct.all()
    assert not grade(math.STRICT, stated, r"\boxed{12}", equivalence).correct.any()
