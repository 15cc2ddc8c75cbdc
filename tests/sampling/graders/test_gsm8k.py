"""The five readings of a GSM8K answer."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jlab.sampling import grade
from jlab.sampling.graders import gsm8k

# completion -> answers of OPENAI, LM_EVAL_STRICT, LM_EVAL_FLEXIBLE, NUMERIC
READINGS = {
    "#### 72": ("72", "72", "72", "72"),
    "#### 72.": ("72.", "72", "72", "72"),
    "#### 1,234.50": ("1234.50", "1234.50", "1234.50", "2469/2"),
    "#### $5": ("[invalid]", "[invalid]", "5", "5"),
    "#### +5": ("[invalid]", "[invalid]", "5", "5"),
    "#### $-5": ("[invalid]", "[invalid]", "-5", "-5"),
    "#### \N{MINUS SIGN}5": ("[invalid]", "[invalid]", "5", "-5"),
    "####72": ("[invalid]", "[invalid]", "72", "72"),
    "#### **72**": ("[invalid]", "[invalid]", "72", "72"),
    "#### 1/2": ("1", "1", "2", "1/2"),
    "#### 1e3": ("1", "1", "3", "1000"),
    "#### .5": (".5", ".5", ".5", "1/2"),
    "#### 007": ("007", "007", "007", "7"),
    "it is 72": ("[invalid]", "[invalid]", "72", "[invalid]"),
    "#### 7, no\n#### 8": ("7", "7", "8", "8"),
    "#### 8\n\nQuestion: 2 + 2?\n#### 4": ("8", "8", "4", "8"),
    "#### 1/0": ("1", "1", "0", "[invalid]"),
    "nothing": ("[invalid]", "[invalid]", "[invalid]", "[invalid]"),
}


@pytest.mark.parametrize("text", READINGS)
def test_readings_of_a_text(text):
    assert tuple(grader.extract(text) for grader in gsm8k.GRADERS[1:]) == READINGS[text]


@pytest.mark.parametrize(
    ("written", "value"),
    [
        *[(text, "5") for text in ("(5)", "($5)", "5 apples.", "5%", "5.", "5 - so", "5x faster")],
        *[
            (text, "5")
            for text in ("5 (of 10)", "5. 10 are left", "5\n10 are left", "5\\text{ cm}")
        ],
        *[(text, "5") for text in ("10 / 2", "10/2.", "**5**, no", "5-hour", "5 e")],
        *[(text, "1234") for text in ("1,234", "1234", "1,234,")],
        *[(text, None) for text in ("3 1/2", "12 - 5 = 7", "12-5", "1,2345", "1,23", "1.2.3")],
        *[(text, None) for text in ("12 \N{MINUS SIGN} $5 = $7", "(12 + 5)", "5 * 4 = 20", "2**3")],
        *[(text, None) for text in ("1/2/3", "1e1234", "3:30", "3, 4", "2(3)", r"2 \times 3")],
        *[(text, None) for text in ("10/2 = 5", "12 345", "5 x 3", "5 + .5", r"2\frac12")],
    ],
)
def test_a_number_that_goes_on_is_not_that_number(written, value):
    assert gsm8k.NUMERIC.extract(f"#### 8\n#### {written}") == (value or gsm8k.INVALID)


@given(st.fractions(max_denominator=10**6), st.sampled_from(["", "$", "\\$", "€"]))
def test_the_numeric_grader_reads_back_every_fraction(value, currency):
    sign = "-" if value < 0 else ""
    text = f"so\n#### {sign}{currency}{abs(value.numerator):,}/{value.denominator}"
    assert Fraction(gsm8k.NUMERIC.extract(text)) == value


@given(st.text())
def test_every_grader_reads_any_text(text):
    for grader in gsm8k.GRADERS:
        assert isinstance(grader.extract("#### " + text), str)


def test_a_number_too_long_to_be_meant_is_invalid():
    assert gsm8k.NUMERIC.extract("#### " + "9" * 5000) == gsm8k.INVALID


def test_lm_eval_ignores_case_and_what_stands_before_the_gold_marker():
    assert gsm8k.LM_EVAL_STRICT.gold("Work: 3 #### x\nmore\n#### 1,000 Eggs") == "1000 eggs"


@pytest.mark.parametrize("grader", gsm8k.GRADERS, ids=lambda grader: grader.name)
def test_a_gold_solution_without_a_number_is_refused(grader):
    with pytest.raises(ValueError, match="gold must hold '#### <number>'; got 'no answer'"):
        grader.gold("no answer")


def test_names_tell_graders_apart():
    assert len({grader.name for grader in gsm8k.GRADERS}) == len(gsm8k.GRADERS)


def test_the_authors_value_comparison_is_asked_where_strings_differ():
    asked = []

    def same(answer, other, *, strict=False):
        asked.append((answer, other, strict))
        return answer == "72.0"

    texts = ["#### 72", "#### 72.0", "#### 71", "nothing"]
    graded = grade(gsm8k.AUTHORS, texts, "#### 72", same)
    assert graded.correct.tolist() == [True, True, False, False]
    assert sorted(asked) == [("71", "72", False), ("72.0", "72", False), ("[invalid]", "72", False)]
