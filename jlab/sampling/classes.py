"""Which answers count as the same: the classes that votes are taken over.

Equivalence of mathematical answers is neither transitive nor reflexive (an answer that does not
parse is not even equivalent to itself), so classes need a rule: the samples are taken in order, and
each joins the first class whose first member is the same string or equivalent to it.
Source: derived; arXiv 2407.21787, Section 4.1, only says that equivalent answers count together.
"""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Int


def answer_classes(
    answers: Sequence[str], same: Callable[[str, str], bool] | None = None
) -> Int[np.ndarray, "n"]:
    """The class of every answer, numbered in the order in which they appear.

    Equal strings are compared once, however many samples gave them.

    Args:
        answers: in the order of the samples.
        same: (answer, first member of a class) -> whether it belongs there; None: equal strings
            only.

    Example:
        >>> answer_classes(["2", "1/2", "0.5", "2"], lambda a, b: {a, b} == {"1/2", "0.5"})
        array([0, 1, 1, 0])
    """
    class_of: dict[str, int] = {}
    firsts: list[str] = []
    for answer in answers:
        if answer in class_of:
            continue
        matches = (i for i, first in enumerate(firsts) if same is not None and same(answer, first))
        class_of[answer] = next(matches, len(firsts))
        if class_of[answer] == len(firsts):
            firsts.append(answer)
    return np.array([class_of[answer] for answer in answers], np.int64)
