"""Grade-school mathematics (GSM8K): the answer is the number after `####`.

`AUTHORS` is the paper's grader: one space after the first `####`, characters up to the first
foreign one, commas and dollar signs dropped, then equal strings or equal values. It reads $-5 as
nothing, 1/2 and 1e3 as 1, takes .5 and 007 for no number, and ignores every `####` but the first.
`OPENAI`, `LM_EVAL_STRICT` and `LM_EVAL_FLEXIBLE` are what others report. `NUMERIC` is the corrected
one: it reads numbers as people do and compares their values; an expression is no number.
Sources: `llmonk/evaluate/math_datasets.py` of ScalingIntelligence/large_language_monkeys
(AUTHORS), `grade_school_math/dataset.py` of openai/grade-school-math (OPENAI),
`lm_eval/tasks/gsm8k/gsm8k.yaml` of EleutherAI/lm-evaluation-harness (LM_EVAL_*); NUMERIC derived.
"""

import re
from collections.abc import Callable
from fractions import Fraction

from jlab.sampling.graders.grader import Grader, same_or_equivalent, same_string

INVALID = "[invalid]"
LONGEST = 200  # characters of a number; Python refuses to convert 4300 digits

_AUTHORS = re.compile(r"#### (-?[$0-9.,]+)")
_OPENAI = re.compile(r"#### (-?[0-9.,]+)")
_ANY_NUMBER = re.compile(r"(-?[$0-9.,]{2,})|(-?[0-9]+)")
# Possessive quantifiers (*+) and `[^\S\n]`, a blank within the line, keep the work linear in
# blanks, which a model may write by the thousand; in `latex.py` too.
_NEXT_QUESTION = re.compile(r"^[^\S\n]*+(Question|Q):", re.MULTILINE)
_DECIMAL = r"(?:[0-9]++(?:,[0-9]{3})*+(?:\.[0-9]*+)?+|\.[0-9]++)"
_CURRENCY = r"(?:\\?[$€£]\s*+)?+"
# What shows that a number is only part of something: 3 1/2, 12 - 5 = 7, 1,2345, 2(3), 2 \times 3.
_MORE = (
    r"(?<!\.)[ \t)]*+(?:[-+\N{MINUS SIGN}\N{EN DASH}*/\N{MULTIPLICATION SIGN}÷·^=:.,x]{1,2}+"
    rf"[ \t(]*+{_CURRENCY}\.?)?[0-9]|\([0-9]|[ \t]*+\\(?:d?frac|times|cdot|div|sqrt|pi)(?![a-zA-Z])"
)
_NUMBER = re.compile(
    rf"####[\s*(]*+(?P<sign>[-+\N{{MINUS SIGN}}]?+)\s*+{_CURRENCY}"
    rf"(?P<inner>[-+\N{{MINUS SIGN}}]?+)(?P<value>{_DECIMAL})"
    rf"(?:[eE](?P<exponent>[-+]?[0-9]{{1,3}}))?+(?:[ \t]*+/[ \t]*+(?P<below>{_DECIMAL}))?+"
    rf"(?P<more>{_MORE})?+"
)


def _authors(text: str) -> str:
    found = _AUTHORS.search(text)
    if found is None:
        return INVALID
    return re.sub(r"\.$", "", found[1].replace(",", "").replace("$", ""))


def _openai(text: str) -> str:
    found = _OPENAI.search(text)
    return INVALID if found is None else found[1].replace(",", "")


def _lm_eval_strict(text: str) -> str:
    found = _OPENAI.search(text)
    return _lm_eval_ignore(INVALID if found is None else found[1])


def _lm_eval_flexible(text: str) -> str:
    found = _ANY_NUMBER.findall(text)
    return _lm_eval_ignore(next(filter(None, found[-1])) if found else INVALID)


def _lm_eval_ignore(answer: str) -> str:
    """What its exact match does to prediction and reference alike."""
    answer = answer.replace(",", "").replace("$", "").rpartition("#### ")[2]
    return re.sub(r"\.$", "", answer).lower()


def _numeric(text: str) -> str:
    """The value after the last `####` before the model goes on to another question.

    A number that goes on into an expression or a list is no answer: 12 - 5 = 7 is neither 12 nor 7.
    """
    found = list(_NUMBER.finditer(_NEXT_QUESTION.split(text, maxsplit=1)[0]))
    if not found or found[-1]["more"] is not None or len(found[-1][0]) > LONGEST:
        return INVALID
    part = found[-1].groupdict()
    below = _fraction(part["below"] or "1")
    if below == 0:
        return INVALID
    value = _fraction(part["value"]) * Fraction(10) ** int(part["exponent"] or 0) / below
    return str(-value if {part["sign"], part["inner"]} & {"-", "\N{MINUS SIGN}"} else value)


def _fraction(decimal: str) -> Fraction:
    return Fraction(decimal.replace(",", "").rstrip(".") or "0")


def _lm_eval_reference(solution: str) -> str:
    return _lm_eval_ignore(solution) if "#### " in solution else INVALID


def _gold(extract: Callable[[str], str]) -> Callable[[str], str]:
    def gold(solution: str) -> str:
        answer = extract(solution)
        if answer == INVALID:
            raise ValueError(f"gold must hold '#### <number>'; got {solution[-60:]!r}")
        return answer

    return gold


AUTHORS = Grader("gsm8k/authors", _authors, _gold(_authors), same_or_equivalent, symbolic=True)
OPENAI = Grader("gsm8k/openai", _openai, _gold(_openai), same_string)
LM_EVAL_STRICT = Grader(
    "gsm8k/lm-eval-strict", _lm_eval_strict, _gold(_lm_eval_reference), same_string
)
LM_EVAL_FLEXIBLE = Grader(
    "gsm8k/lm-eval-flexible", _lm_eval_flexible, _gold(_lm_eval_reference), same_string
)
NUMERIC = Grader("gsm8k/numeric", _numeric, _gold(_numeric), same_string)
GRADERS = (AUTHORS, OPENAI, LM_EVAL_STRICT, LM_EVAL_FLEXIBLE, NUMERIC)
