"""How a selector's accuracy grows with the number of samples that it may choose from.

For each size k random subsets of the n samples are drawn without replacement, the same ones for all
problems; a curve is the share of problems whose selected answer is right, its mean and spread over
the subsets. A draw orders all samples at random and its subset of size k is the first k of them, so
that one pass serves every k. Best of n needs no draws, its mean is known in closed form, and so is
where the majority ends.
Source: Brown et al., "Large Language Monkeys", arXiv 2407.21787, Section 4.1; closed forms derived.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jlab.sampling.coverage import pass_at_k
from jlab.sampling.select import Selector, at_least_float32, best, vote


class SelectionCurve(NamedTuple):
    """Share of problems whose selected answer is right, over random subsets of the samples."""

    k: Int[np.ndarray, "k"]  # size of the subsets
    mean: Float[np.ndarray, "k"]
    std: Float[np.ndarray, "k"]  # over subsets, of the population


def majority_curve(
    key: Array,
    answers: Int[Array, "problems n"],
    correct: Bool[Array, "problems n"],
    ks: Int[np.ndarray, "k"],
    *,
    subsets: int = 100,
) -> SelectionCurve:
    """Accuracy of the majority vote among k samples.

    Args:
        key: of the drawing.
        answers: classes of equal answers.
        correct: whether each sample's answer is right.
        ks: sizes of the subsets.
        subsets: how many are drawn.

    Raises:
        ValueError: other shapes, k outside [1, n], or no subset.
    """
    ones = np.ones(np.shape(answers))
    return _curve(vote, key, (answers, ones, correct), ks, subsets)


def weighted_curve(
    key: Array,
    answers: Int[Array, "problems n"],
    scores: Float[Array, "problems n"],
    correct: Bool[Array, "problems n"],
    ks: Int[np.ndarray, "k"],
    *,
    subsets: int = 100,
) -> SelectionCurve:
    """Accuracy of the vote weighted by scores; arguments as in `majority_curve`."""
    return _curve(vote, key, (answers, scores, correct), ks, subsets)


def best_of_n_curve(
    key: Array,
    scores: Float[Array, "problems n"],
    correct: Bool[Array, "problems n"],
    ks: Int[np.ndarray, "k"],
    *,
    subsets: int = 100,
) -> SelectionCurve:
    """Accuracy of the best-scored of k samples; arguments as in `majority_curve`."""
    one_class = np.zeros(np.shape(scores), np.int32)
    return _curve(best, key, (one_class, scores, correct), ks, subsets)


def best_of_n_mean(
    scores: Float[np.ndarray, "problems n"],
    correct: Bool[np.ndarray, "problems n"],
    ks: Int[np.ndarray, "k"],
) -> Float[np.ndarray, "k"]:
    """Mean accuracy of the best of k over all subsets, in closed form.

    A subset has its best sample among the r highest scores exactly if it holds one of them, with
    chance pass@k of r in n; the difference between r and r - 1 is the chance of rank r. Samples
    with equal scores are equally likely to come first.

    Raises:
        ValueError: other shapes, or k outside [1, n].

    Example:
        >>> best_of_n_mean(np.array([[0.9, 0.5, 0.1]]), np.array([[True, False, False]]), [1, 2])
        array([0.33333333, 0.66666667])
    """
    scores, correct, ks = np.asarray(scores), np.asarray(correct, np.float64), _sizes(ks, scores)
    _check_shapes(scores=scores, correct=correct)
    n = scores.shape[1]
    ranked = np.stack([_by_rank(*row) for row in zip(scores, correct, strict=True)])
    within = pass_at_k(n, np.arange(n + 1)[:, None], ks[None, :])
    return (ranked @ np.diff(within, axis=0)).mean(0)


def majority_limit(
    answers: Int[np.ndarray, "problems n"], correct: Bool[np.ndarray, "problems n"]
) -> float:
    """Accuracy that the majority vote tends to: the share of problems whose mode is right.

    Where several answers are equally frequent each counts for its part. No vote over more samples
    does better, however many of them are right.

    Raises:
        ValueError: other shapes.

    Example:
        >>> majority_limit(np.array([[4, 4, 7]]), np.array([[False, False, True]]))
        0.0
    """
    answers, correct = np.asarray(answers), np.asarray(correct, bool)
    _check_shapes(answers=answers, correct=correct)
    return float(np.mean([_mode_is_right(*row) for row in zip(answers, correct, strict=True)]))


@partial(jax.jit, static_argnums=(1, 2))
def random_orders(key: Array, n: int, count: int) -> Int[Array, "count n"]:
    """Orders of n samples, of which the first k are a subset drawn without replacement."""
    return jax.vmap(lambda key: jax.random.permutation(key, n))(jax.random.split(key, count))


def _by_rank(
    scores: Float[np.ndarray, "n"], correct: Float[np.ndarray, "n"]
) -> Float[np.ndarray, "n"]:
    """Share of right samples at every rank, highest score first; equal scores share theirs."""
    _, group, size = np.unique(-scores, return_inverse=True, return_counts=True)
    return np.repeat(np.bincount(group, correct) / size, size)


def _mode_is_right(answers: Int[np.ndarray, "n"], correct: Bool[np.ndarray, "n"]) -> float:
    _, first, count = np.unique(answers, return_index=True, return_counts=True)
    return correct[first[count == count.max()]].mean()


def _curve(
    select: Selector, key: Array, samples: tuple, ks: Int[np.ndarray, "k"], subsets: int
) -> SelectionCurve:
    answers, scores, correct = (np.asarray(array) for array in samples)
    _check_shapes(answers=answers, scores=scores, correct=correct)
    ks = _sizes(ks, answers)
    if not np.all(np.isfinite(scores)):
        raise ValueError(f"scores must be finite; got {scores[~np.isfinite(scores)][0]}")
    if subsets < 1:
        raise ValueError(f"subsets must be at least 1; got {subsets}")
    classes = np.stack([np.unique(row, return_inverse=True)[1] for row in answers])
    orders = random_orders(key, answers.shape[1], subsets)
    ascending, back = np.unique(ks, return_inverse=True)
    scores, count = at_least_float32(jnp.asarray(scores)), int(classes.max()) + 1
    right = _selected(select, count, classes, scores, correct.astype(bool), orders, ascending)
    rates = np.asarray(right).mean(0)[:, back]
    return SelectionCurve(ks, rates.mean(0), rates.std(0))


@partial(jax.jit, static_argnums=(0, 1))
def _selected(
    select: Selector,
    count: int,
    classes: Int[Array, "problems n"],
    scores: Float[Array, "problems n"],
    correct: Bool[Array, "problems n"],
    orders: Int[Array, "subsets n"],
    ks: Int[Array, "k"],
) -> Bool[Array, "problems subsets k"]:
    def problem(row):
        classes, scores, correct = row
        return jax.vmap(lambda o: correct[o][select(classes[o], scores[o], ks, count)])(orders)

    return jax.lax.map(problem, (classes, scores, correct))


def _check_shapes(**arrays: np.ndarray) -> None:
    shapes = [array.shape for array in arrays.values()]
    if len(set(shapes)) != 1 or len(shapes[0]) != 2 or 0 in shapes[0]:
        names, got = " and ".join(arrays), ", ".join(map(str, shapes))
        raise ValueError(f"{names} must be equally shaped [problems, n]; got {got}")


def _sizes(ks: Int[np.ndarray, "k"], samples: np.ndarray) -> Int[np.ndarray, "k"]:
    ks, n = np.asarray(ks), samples.shape[-1]
    if ks.ndim != 1 or len(ks) == 0 or not np.all((ks >= 1) & (ks <= n)):
        raise ValueError(f"ks must be [k] and lie in [1, {n}]; got {ks.tolist()}")
    return ks
