"""Programs as answers: finding the code in a text, and comparing what it printed.

`extract_first_code` and `outputs_match` are the paper's, for CodeContests; `extract_code` mends the
first: it knows the language tags (`python3` leaves a `3` in the code there), reads to the end of
the text where a fence is not closed, and takes an empty text for no program. Running a program is
the sandbox's work (`jlab.jobs`).
Source: `llmonk/utils.py` and `llmonk/evaluate/code_contests_utils/compare_results.py` of
ScalingIntelligence/large_language_monkeys; the comparison follows google-deepmind/code_contests.
"""

import re
import warnings

CLOSE = 1e-5  # two printed floats nearer than this are equal
_FENCED = re.compile(r"```(.*?)```", re.DOTALL)
_TAGGED = re.compile(
    r"```[ \t]*(?:(?:python|py)[0-9.]*[ \t\r]*(?=\n|$))?(.*?)(?:```|\Z)", re.DOTALL | re.IGNORECASE
)
_BLANKS = re.compile("[ \n\t\r\v]")  # not the form feed


def extract_first_code(text: str) -> str | None:
    """The first fenced block without a leading "python", else the text if it compiles, else None.

    Example:
        >>> extract_first_code("So: ```python\\nprint(1)\\n``` as asked")
        'print(1)'
    """
    text = text.strip()
    fenced = _FENCED.search(text)
    if fenced is not None:
        return fenced[1].strip().removeprefix("python").strip()
    return text if compiles(text) else None


def extract_code(text: str) -> str | None:
    """The first fenced block, whatever its tag and closed or not, else the text if it compiles.

    None if that leaves nothing.

    Example:
        >>> extract_code("So: ```py\\nprint(1)")
        'print(1)'
    """
    fenced = _TAGGED.search(text)
    code = (text if fenced is None else fenced[1]).strip("\n").rstrip()
    if not code.strip() or (fenced is None and not compiles(code)):
        return None
    return code


def compiles(code: str) -> bool:
    """Whether Python takes the text for a program; nothing is run."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of doubtful escapes in what a model wrote
            compile(code, "<answer>", "exec")
    except (SyntaxError, ValueError, OverflowError, RecursionError, MemoryError):
        return False
    return True


def outputs_match(expected: str, actual: str) -> bool:
    """Whether two outputs agree token by token, in any letter case.

    Tokens that Python reads as integers are compared exactly; if one of them is a float, to within
    1e-5, so that nan and inf never match; all others as strings.

    Example:
        >>> outputs_match("YES 0.5", "yes\\n0.500001"), outputs_match("nan", "nan")
        (True, False)
    """
    left, right = (
        [token.lower() for token in _BLANKS.split(text) if token] for text in (expected, actual)
    )
    return len(left) == len(right) and all(map(_tokens_match, left, right))


def _tokens_match(a: str, b: str) -> bool:
    x, y = _value(a), _value(b)
    if x is None or y is None:
        return a == b
    if isinstance(x, int) and isinstance(y, int):
        return x == y
    try:
        return abs(x - y) < CLOSE
    except OverflowError:  # an integer beyond the largest float
        return False


def _value(token: str) -> int | float | None:
    for read in (int, float):
        try:
            return read(token)
        except ValueError:
            continue
    return None
