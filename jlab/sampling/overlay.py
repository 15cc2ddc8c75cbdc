"""Models of one family on one task: their coverage curves nearly coincide, shifted along log k.

The curve of each model is moved left by log k_m, where k_m is the budget at which it is closest to
the best single-sample accuracy of the family. That they then coincide says that going from one
coverage to another multiplies the budget by the same factor for every model of the family.
Source: Brown et al., "Large Language Monkeys", arXiv 2407.21787, Section 3.2 and Figure 6.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from jlab.sampling.coverage import Counts, coverage_curve

Model = tuple[Counts, Int[np.ndarray, "problems"]]  # samples per problem, correct ones


class Overlay(NamedTuple):
    """Where the curves of a family meet."""

    target: float  # the largest pass@1 among the models
    k: Int[np.ndarray, "models"]  # budget at which each is closest to it: plot c over budget / k


def family_overlay(n: Counts, counts: Sequence[Int[np.ndarray, "problems"]]) -> Overlay:
    """Budget of every model at which its coverage is closest to the family's best pass@1.

    Among equally close budgets the smallest wins. Coverage never falls with k, so that halving
    finds the budget in log n evaluations.

    Args:
        n: samples per problem, one number for all, or one entry per model.
        counts: for each model its correct samples per problem.

    Raises:
        ValueError: no model, or another number of entries in n.

    Example:
        >>> family_overlay(100, [np.array([25]), np.array([1, 2])]).k
        array([ 1, 18])
    """
    if len(counts) == 0:
        raise ValueError("counts must hold at least one model; got none")
    sizes = [n] * len(counts) if np.ndim(n) == 0 else list(n)
    if len(sizes) != len(counts):
        raise ValueError(f"n must have one entry per model ({len(counts)}); got {len(sizes)}")
    models = [(size, np.asarray(c)) for size, c in zip(sizes, counts, strict=True)]
    target = max(_coverage(model, 1) for model in models)
    return Overlay(target, np.array([_closest(model, target) for model in models]))


def _closest(model: Model, target: float) -> int:
    above = _first_at_least(model, target)
    candidates = [_coverage(model, k) for k in (max(above - 1, 1), above)]
    best = min(candidates, key=lambda c: abs(c - target))
    return _first_at_least(model, best)  # the first budget of a flat stretch


def _first_at_least(model: Model, target: float) -> int:
    """Smallest k with coverage >= target; the largest k where there is none."""
    low, high = 1, int(np.min(model[0]))
    while low < high:
        middle = (low + high) // 2
        if _coverage(model, middle) >= target:
            high = middle
        else:
            low = middle + 1
    return low


def _coverage(model: Model, k: int) -> float:
    return float(coverage_curve(*model, np.array([k]))[0])
