"""The strict reading of LaTeX answers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jlab.sampling.graders import latex


def strings_only(answer, other, *, strict=False):
    assert strict
    return False


@pytest.mark.parametrize(
    ("answer", "normal"),
    [
        ("$5$", "5"),
        (r"\(5\)", "5"),
        (r"\boxed{\fbox{5}}", "5"),
        (r"\dfrac12", r"\frac{1}{2}"),
        (r"\tfrac{1}2", r"\frac{1}{2}"),
        (r"\sqrt2", r"\sqrt{2}"),
        (r"2\frac{1}{2}", r"\frac{5}{2}"),  # sympy would multiply
        (r"x^2\frac{1}{2}", r"x^2\frac{1}{2}"),
        (".5", "0.5"),
        ("10,000", "10000"),
        ("10{,}000", "10000"),
        (r"1,\!234", "1234"),
        ("3,4", "3,4"),
        ("3 and 4", "3,4"),
        (r"3\text{ or }4", "3,4"),
        (r"\left( 3, 4 \right)", "(3,4)"),
        (r"\infty", r"\infty"),
        ("5 square feet", "5"),
        (r"5\text{ cm}^2", "5"),
        (r"5\mbox{ inches}", "5"),
        (r"90^\circ", "90"),
        (r"\$32.50", "32.50"),
        (r"5\%", "5%"),
        ("x = 5", "5"),
        ("f(x)=x+1", "x+1"),
        ("x=1,y=2", "x=1,y=2"),
        ("x+y=5", "x+y=5"),
        ("x<y=5", "x<y=5"),
        (r"\text{Even}", r"\text{even}"),
        ("even", r"\text{even}"),
        (r"\textbf{(B)}", r"\text{b}"),
        ("5.", "5"),
        (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}"),
    ],
)
def test_normal_forms(answer, normal):
    assert latex.normalize(answer) == normal
    assert latex.normalize(normal) == normal


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Final Answer: The final answer is $24$. I hope it is correct.", "24"),
        ("Final Answer: The final answer is $24$", "24"),
        (r"so the answer is \boxed{24}.", "24"),
        (r"\boxed{1} no, the final answer is: 24.", "24"),
        ("The final answer is $24$. I hope it is correct.\n\nProblem:\nfinal answer is 3", "24"),
        ("The answer is 24.", latex.INVALID),
        (r"\boxed{24", latex.INVALID),
        ("", latex.INVALID),
    ],
)
def test_where_the_answer_stands(text, answer):
    assert latex.answer_of(text) == answer


@pytest.mark.parametrize(
    ("answer", "gold", "equal"),
    [
        (r"\{1,2\}", r"\{2,1\}", True),
        (r"\{1,1\}", r"\{1,2\}", False),
        ("2,1", "1,2", True),
        ("(1,2)", "(2,1)", False),
        ("(1,2)", "[1,2]", False),
        ("[2,5)", "[2,5)", True),
        ("(2,5)", "[2,5)", False),
        ("(1,(2,3))", "(1,(2,3))", True),
        ("(1,2)", "(1,2,3)", False),
        ("(1)+(2)", "(1)+(3)", False),
        (r"\text{east}", "seat", False),
        (latex.INVALID, "5", False),
    ],
)
def test_tuples_intervals_sets_and_words(answer, gold, equal):
    forms = latex.normalize(answer), latex.normalize(gold)
    assert latex.same(*forms, strings_only) == equal


def test_words_are_never_products_of_letters():
    assert not latex.same(r"\text{east}", r"\text{seat}", lambda a, b, strict: True)


@pytest.mark.parametrize(
    ("answer", "gold", "equal"),
    [
        (r"(\frac{1}{2},2)", "(0.5,2)", True),
        (r"[0.5,\infty)", r"[\frac{1}{2},\infty)", True),
        (r"\{\sqrt{4},1\}", r"\{1,2\}", True),
        (r"2\frac{1}{2}", "2.5", True),
        ("1", r"2\frac{1}{2}", False),
        ("5+", "5", False),
    ],
)
def test_entries_are_compared_by_value(answer, gold, equal, equivalence):
    forms = latex.normalize(answer), latex.normalize(gold)
    assert latex.same(*forms, equivalence) == equal


@given(st.text(alphabet=r"\{}[]()$ ,.=^_x1final" + "\n"))
def test_any_text_is_read_and_equals_itself(text):
    answer = latex.normalize(text)
    assert latex.same(answer, answer, strings_only)
    assert isinstance(latex.answer_of("final answer is " + text), str)
    latex.same(answer, latex.normalize(text[::-1]), strings_only)


@pytest.mark.parametrize(
    ("solution", "answer"),
    [(r"\boxed{1} then \fbox{2}", "2"), (r"\boxed 5$ is it", "5"), (r"\boxed{x^{2}}", "x^{2}")],
)
def test_gold_answers_are_the_last_box_of_any_kind(solution, answer):
    assert latex.gold_of(solution) == answer


def test_a_gold_solution_without_a_box_is_refused():
    with pytest.raises(ValueError, match=r"gold must hold \\boxed\{answer\}; got 'it is 5'"):
        latex.gold_of("it is 5")
