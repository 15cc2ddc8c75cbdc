"""A grader: how a benchmark finds the answer in a text, and when two answers are the same.

The same samples differ by points between graders, so each has a name, which belongs in every
report. Comparisons may be slow; of ten thousand samples few hundred answers are different, and each
is compared once.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool

from jlab.sampling.graders.equivalence import Same

THREADS = 16  # that wait for the workers of an `Equivalence`; more than it has do no harm


class Grader(NamedTuple):
    """Rules of one benchmark. Answers are strings; an invalid one is a string too."""

    name: str
    extract: Callable[[str], str]  # completion -> answer
    gold: Callable[[str], str]  # solution of the data set -> answer; ValueError if it has none
    same: Callable[[str, str, Same | None], bool]  # (answer, gold answer, equivalence)
    symbolic: bool = False  # whether `same` asks the equivalence, so that one must be given


class Graded(NamedTuple):
    """Samples of one problem, graded."""

    answers: list[str]
    correct: Bool[np.ndarray, "n"]


def grade(
    grader: Grader, completions: Sequence[str], gold: str, equivalence: Same | None = None
) -> Graded:
    """Grade all samples of one problem.

    Args:
        grader: the rules.
        completions: what the model wrote.
        gold: the data set's solution, as it stands there.
        equivalence: an `Equivalence`, kept for all problems; needed where the grader is symbolic.

    Raises:
        ValueError: a gold solution without an answer, or a symbolic grader without equivalence.

    Example:
        >>> from jlab.sampling.graders import gsm8k
        >>> grade(gsm8k.NUMERIC, ["so #### 72.0", "72"], "#### 72")
        Graded(answers=['72', '[invalid]'], correct=array([ True, False]))
    """
    if grader.symbolic and equivalence is None:
        raise ValueError(f"grader {grader.name} needs equivalence=Equivalence(); got None")
    target = grader.gold(gold)
    answers = [grader.extract(completion) for completion in completions]
    different = list(dict.fromkeys(answers))

    def verdict(answer: str) -> bool:
        return grader.same(answer, target, equivalence)

    if grader.symbolic:
        with ThreadPoolExecutor(THREADS) as threads:
            verdicts = list(threads.map(verdict, different))
    else:
        verdicts = [verdict(answer) for answer in different]
    known = dict(zip(different, verdicts, strict=True))
    return Graded(answers, np.array([known[answer] for answer in answers], bool))


def same_string(answer: str, gold: str, equivalence: Same | None = None) -> bool:
    """Equal strings only."""
    return answer == gold


def same_or_equivalent(answer: str, gold: str, equivalence: Same) -> bool:
    """Equal strings, or equivalent ones: a string that does not parse is not even its own equal."""
    return answer == gold or equivalence(answer, gold)
