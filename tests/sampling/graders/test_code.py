"""Code in texts and the outputs of programs; the released behaviour is golden cases."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jlab.sampling.graders import code


@pytest.mark.parametrize(
    ("text", "program"),
    [
        ("```python3\nprint(4)\n```", "print(4)"),
        ("```py\r\nprint(4)\n```", "print(4)"),
        ("``` Python\nprint(4)\n```", "print(4)"),
        ("```print(4)```", "print(4)"),
        ("```python\nprint(4)", "print(4)"),  # generation stopped in the block
        ("```\n    return 1\n```", "    return 1"),  # the body of a function keeps its place
        ("a ```x=1``` b ```x=2```", "x=1"),
        ("print(4)\n", "print(4)"),
        ("no code here", None),
        ("", None),
        ("```\n\n```", None),
    ],
)
def test_the_corrected_extraction(text, program):
    assert code.extract_code(text) == program


@pytest.mark.parametrize("text", ["x = (", "\0", "return", "(" * 5000, "1" * 5000 + "+1"])
def test_text_that_does_not_compile_is_no_program(text):
    assert not code.compiles(text)
    assert code.extract_first_code(text) is None


def test_doubtful_escapes_are_no_error():
    assert code.compiles("print('\\d')")


@given(st.text(alphabet="aB1.5 \n\tneif-_"))
def test_an_output_matches_itself_in_any_case_and_spacing(text):
    if not {"nan", "inf", "-inf", "-nan"} & set(text.lower().split()):
        spaced = "\n".join(text.upper().split(" "))
        assert code.outputs_match(text, spaced)


@pytest.mark.parametrize(
    ("expected", "actual", "match"),
    [
        ("1", "1.000009", True),
        ("1", "1.00001", False),
        ("9" * 400, "1.5", False),  # beyond the largest float
        ("1e400", "1e400", False),  # inf
        ("infinity", "infinity", False),
        ("0b1", "1", False),
    ],
)
def test_tokens_by_hand(expected, actual, match):
    assert code.outputs_match(expected, actual) == match
