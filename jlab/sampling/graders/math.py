"""Competition mathematics (MATH): the answer is a piece of LaTeX.

`MINERVA` is the paper's grader to the letter: a fixed final sentence, a list of deletions, then
equal strings or a difference that sympy simplifies to 0. Its deletions go through words (`ft` makes
"iny" of "infty", `a ` makes "alph3" of "alpha 3"), commas between digits go (3,4 equals 34), and
sympy reads unfinished input as far as it goes (5+ equals 5). `STRICT` does none of this: see
`latex.py`.
Sources: `is_correct_minerva` in `llmonk/evaluate/math_datasets.py` of
ScalingIntelligence/large_language_monkeys; `lm_eval/tasks/minerva_math/utils.py` of
EleutherAI/lm-evaluation-harness, release 0.4.4, after Lewkowycz et al., arXiv 2206.14858,
Appendix D.
"""

import re

from jlab.sampling.graders import latex
from jlab.sampling.graders.grader import Grader, same_or_equivalent

INVALID = "[invalidanswer]"

END = "I hope it is correct."
# The dot before " I" is any character, and no dot crosses a line.
_FINAL = re.compile(r"Final Answer: The final answer is(.*?). I hope it is correct.")

REPLACED = (
    ("an ", ""),
    ("a ", ""),
    (".$", "$"),
    ("\\$", ""),
    ("\\ ", ""),
    (" ", ""),
    ("mbox", "text"),
    (",\\text{and}", ","),
    ("\\text{and}", ","),
    ("\\text{m}", "\\text{}"),
)
UNITS = (
    *("square", "ways", "integers", "dollars", "mph", "inches", "ft", "hours", "km", "units"),
    *("\\ldots", "sue", "points", "feet", "minutes", "digits", "cents", "degrees", "cm", "gm"),
    *("pounds", "meters", "meals", "edges", "students", "childrentickets", "multiples"),
)
DELETED = (
    *UNITS,
    *("\\text{s}", "\\text{.}", "\\text{\ns}", "\\text{}^2", "\\text{}^3", "\\text{\n}"),
    *("\\text{}", "\\mathrm{th}", "^\\circ", "^{\\circ}", "\\;", ",\\!", "{,}", '"', "\\dots"),
)
REWRITTEN = (
    (r"(?m)^(.*?)(\$)(.*?)(\$)(.*)", r"$\3$"),  # what stands between the first two dollar signs
    (r"(\\text\{)(.*?)(\})", r"\2"),
    (r"(\\textbf\{)(.*?)(\})", r"\2"),
    (r"(\\overline\{)(.*?)(\})", r"\2"),
    (r"(\\boxed\{)(.*)(\})", r"\2"),
    (r"(frac)([^{])(.)", r"frac{\2}{\3}"),  # \frac12
    (r"(sqrt)([^{])", r"sqrt{\2}"),
)


def final_answer(text: str) -> str:
    """What stands between "The final answer is" and "I hope it is correct", not normalised.

    The last sentence is added where generation stopped before it, but not the space in front of it.
    """
    found = _FINAL.search(text + END)
    return INVALID if found is None else found[1].strip()


def normalize(answer: str) -> str:
    """The paper's normal form: after the last `=`, replacements, deletions, rewriting, in order."""
    answer = answer.split("=")[-1]
    for old, new in REPLACED:
        answer = answer.replace(old, new)
    for deleted in DELETED:
        answer = answer.replace(deleted, "")
    for pattern, new in REWRITTEN:
        answer = re.sub(pattern, new, answer)
    answer = answer.replace("$", "")
    digits = answer.replace(",", "")
    return digits if digits.isdigit() else answer


def last_boxed(solution: str) -> str | None:
    r"""The last \boxed{...} with its braces, else the last \fbox{...}; None if there is none.

    If `\boxed ` with a space occurs anywhere, the last of these wins, up to the next dollar sign.
    """
    if "\\boxed " in solution:
        return "\\boxed " + solution.split("\\boxed ")[-1].split("$")[0]
    for command in ("\\boxed", "\\fbox"):
        if command in solution:
            return latex.through_brace(solution, solution.rfind(command))
    return None


def boxed_answer(solution: str) -> str:
    r"""The inner text of the last \boxed of a data set's solution.

    Raises:
        ValueError: no \boxed, an unclosed brace, or only an \fbox: the paper's code crashes there.
    """
    boxed = last_boxed(solution)
    if boxed is not None and boxed.startswith("\\boxed "):
        return boxed.removeprefix("\\boxed ")
    if boxed is None or not boxed.startswith("\\boxed{"):
        raise ValueError(f"gold must hold \\boxed{{answer}}; got {solution[-60:]!r}")
    return boxed.removeprefix("\\boxed{").removesuffix("}")


MINERVA = Grader(
    name="math/minerva",
    extract=lambda text: normalize(final_answer(text)),
    gold=lambda solution: normalize(boxed_answer(solution)),
    same=same_or_equivalent,
    symbolic=True,
)
STRICT = Grader("math/strict", latex.answer_of, latex.gold_of, latex.same, symbolic=True)
GRADERS = (MINERVA, STRICT)
