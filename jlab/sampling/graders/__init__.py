"""Graders by benchmark: `gsm8k`, `math`, `code`, `lean`.

Each `Grader` is named after the rules it follows, those of the paper or corrected ones:

    >>> from jlab.sampling.graders import grade, gsm8k
    >>> grade(gsm8k.NUMERIC, ["#### $1,234.00", "#### 7"], "#### 1234").correct
    array([ True, False])
"""

from jlab.sampling.graders import code, gsm8k, lean, math
from jlab.sampling.graders.equivalence import Equivalence, Same
from jlab.sampling.graders.grader import Graded, Grader, grade

__all__ = [
    "Equivalence",
    "Graded",
    "Grader",
    "Same",
    "code",
    "grade",
    "gsm8k",
    "lean",
    "math",
]
