r"""LaTeX answers read strictly: a normal form that changes no value, compared part by part.

Units go only as whole words after a number, commas only between thousands, and a left-hand side
only if it is one name. Tuples and intervals are compared by entry and by bracket, sets and lists in
any order; entries are equal if their strings are or if sympy, which must read all of both, says so.
Words are never read as products of letters. Source: derived, against the oddities of the released
grader (`math.py`).
"""

import re

from jlab.sampling.graders.equivalence import Same

INVALID = "[invalidanswer]"

_FINAL = re.compile(r"final answer is:?[ \t]*(\S.*)", re.IGNORECASE)
_CLOSING = re.compile(r"(?:\.|(?<!\s))\s*+I hope it is correct.*")
_NEXT_PROBLEM = re.compile(r"^[^\S\n]*+Problem:", re.MULTILINE)
_UNITS = (
    *("squares?", "cubic", "ways", "integers", "dollars?", "cents?", "mph", "inch(?:es)?", "ft"),
    *("foot", "feet", "yards?", "miles?", "km", "cm", "mm", "met(?:er|re)s?", "units?", "points?"),
    *("hours?", "minutes?", "seconds?", "days?", "degrees?", "grams?", "kg", "pounds?", "digits"),
    *("meals", "edges", "students", "people", "tickets", "multiples"),
)
_WRAP = r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox)\s*\{([^{}]*)\}"
_AND = r"(?:\\text\s*\{\s*(?:and|or)\s*\}|(?<=[\d\s})])\b(?:and|or)\b)"
_NUMBER_END = r"(?<=[0-9)}!])"
# In order; each keeps the value of what it rewrites.
_REWRITTEN = tuple(
    (re.compile(pattern), new)
    for pattern, new in (
        (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
        (r"\\(?:left|right)(?![A-Za-z])", ""),
        (r"\{,\}|,\\!", ","),
        (r"(?<!\\)\\[!,;: ]|\\q?quad(?![A-Za-z])|~", " "),
        (r"\^\s*+(?:\{\s*+)?+\\circ\s*\}?|\\degree(?![A-Za-z])", ""),
        (r"\\%", "%"),
        (r"\\?\$|\\[()\[\]]", ""),
        (rf"(?:(?<!\s)\s++)?(?:,\s*+)?{_AND}\s*", ","),
        (rf"{_NUMBER_END}\s*{_WRAP}(?:\^\{{?[23]\}}?)?\s*$", ""),
        (rf"{_NUMBER_END}\s*\b(?:(?:{'|'.join(_UNITS)})\b\s*+)++(?:\^\{{?[23]\}}?)?\s*$", ""),
        (r"\\sqrt\s*([0-9a-zA-Z])", r"\\sqrt{\1}"),
        (r"\\frac\s*([0-9a-zA-Z])", r"\\frac{\1}"),
        (r"(\\frac\{[^{}]*\})\s*([0-9a-zA-Z])", r"\1{\2}"),
        (r"(?<![0-9])\.(?=[0-9])", "0."),
    )
)
_MIXED = re.compile(r"(?<![0-9.^_{])([0-9]{1,50})\s*\\frac\{([0-9]{1,50})\}\{([0-9]{1,50})\}")
_THOUSANDS = re.compile(r"-?[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]+)?")
_NAME = re.compile(r"^\\?[A-Za-z]+(?:_\{?\w+\}?)?(?:\([A-Za-z]\))?=(?=[^=]+$)")
_GROUP = re.compile(r"(?P<opening>\\\{|[\[(])(?P<inner>.*)(?P<closing>\\\}|[\])])")
_WORD = re.compile(r"[A-Za-z][A-Za-z\s]{2,}|\([A-Za-z]\)")


def answer_of(text: str) -> str:
    r"""The normal form of what follows the last "final answer is", else of the last \boxed{...}."""
    text = _NEXT_PROBLEM.split(text, maxsplit=1)[0]
    stated = _FINAL.findall(text)
    if stated:
        return normalize(_CLOSING.sub("", stated[-1])) or INVALID
    return normalize(_boxed(text) or "") or INVALID


def gold_of(solution: str) -> str:
    r"""The normal form of the last \boxed or \fbox of a data set's solution.

    Raises:
        ValueError: there is none, or its brace is not closed.
    """
    boxed = _boxed(solution)
    if boxed is None:
        raise ValueError(f"gold must hold \\boxed{{answer}}; got {solution[-60:]!r}")
    return normalize(boxed)


def normalize(answer: str) -> str:
    r"""The normal form. Words become \text{words} in small letters; other blanks go.

    Example:
        >>> normalize(r"x = 2\dfrac12\text{ cm}"), normalize("10,000"), normalize(r"(3, \infty)")
        ('\\frac{5}{2}', '10000', '(3,\\infty)')
    """
    answer = answer.strip()
    while (inner := _boxed(answer)) is not None and inner != answer:
        answer = inner
    for pattern, new in _REWRITTEN:
        answer = pattern.sub(new, answer)
    answer = _MIXED.sub(_improper, answer.strip().rstrip(".,;").strip())
    bare = re.sub(_WRAP, r"\1", answer).strip()
    if _WORD.fullmatch(bare):
        return f"\\text{{{' '.join(bare.lower().strip('()').split())}}}"
    answer = _NAME.sub("", re.sub(r"\s+", "", answer))
    return answer.replace(",", "") if _THOUSANDS.fullmatch(answer) else answer


def same(answer: str, gold: str, equivalence: Same) -> bool:
    """Whether two normal forms are the same value, tuple, interval, set or list."""
    if answer == gold:
        return True
    if INVALID in (answer, gold):
        return False
    left, right = _parts(answer), _parts(gold)
    if left[0] != right[0] or len(left[1]) != len(right[1]):
        return False
    if len(left[1]) == 1 and left[0] == "":
        return _same_value(answer, gold, equivalence)
    if left[0] in {"", "\\{\\}"}:
        return _same_in_any_order(left[1], right[1], equivalence)
    return all(same(a, b, equivalence) for a, b in zip(left[1], right[1], strict=True))


def through_brace(text: str, start: int) -> str | None:
    """The text from `start` to the brace that closes the first one opened after it, or None."""
    depth = 0
    for end in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[end], 0)
        if depth == 0 and text[end] == "}":
            return text[start : end + 1]
    return None


def _boxed(text: str) -> str | None:
    r"""The inner text of the last \boxed{...}, \fbox{...} or `\boxed ...` up to a dollar sign."""
    found = list(re.finditer(r"\\(?:boxed|fbox)\s*(?P<brace>\{)?", text))
    if not found:
        return None
    if found[-1]["brace"] is None:
        return text[found[-1].end() :].split("$")[0].split("\n")[0]
    group = through_brace(text, found[-1].end() - 1)
    return None if group is None else group[1:-1]


def _improper(mixed: re.Match) -> str:
    whole, above, below = (int(number) for number in mixed.groups())
    return f"\\frac{{{whole * below + above}}}{{{below}}}"


def _parts(answer: str) -> tuple[str, list[str]]:
    r"""Brackets and entries: ("[)", [2, 5]) of [2,5), ("", [3, 4]) of 3,4, ("", [x]) of a value."""
    group = _GROUP.fullmatch(answer)
    if group is not None and all(depth >= 0 for depth in _depths(group["inner"])):
        entries = _split(group["inner"])
        if len(entries) > 1 or group["opening"] == "\\{":
            return group["opening"] + group["closing"], entries
    return "", _split(answer)


def _split(text: str) -> list[str]:
    """Entries between commas that stand in no bracket."""
    parts = [""]
    for character, depth in zip(text, _depths(text), strict=True):
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def _depths(text: str) -> list[int]:
    depth, depths = 0, []
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        depths.append(depth)
    return depths


def _same_in_any_order(answers: list[str], golds: list[str], equivalence: Same) -> bool:
    left = list(golds)
    for answer in answers:
        match = next((gold for gold in left if same(answer, gold, equivalence)), None)
        if match is None:
            return False
        left.remove(match)
    return True


def _same_value(answer: str, gold: str, equivalence: Same) -> bool:
    if "\\text" in answer or "\\text" in gold:
        return False  # sympy would multiply the letters: \text{east} and \text{seat}
    return equivalence(answer, gold, strict=True)
