"""Picking one answer of many without a checker: majority, best of n, votes weighted by a reward.

Answers are integers that name classes of equal answers (`answer_classes` makes them of strings); an
invalid answer is a class like any other. Of equally good classes the one whose first sample comes
first wins, of equally good samples the first. How far a selector stays below the oracle, which
picks a right answer wherever there is one, is what a better selector could still gain.
Source: Brown et al., "Large Language Monkeys", arXiv 2407.21787, Section 4.1 and Appendix D, which
leave ties and invalid answers open: the rules here are ours.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

Answers = Int[Array, "*batch n"]
Scores = Float[Array, "*batch n"]
# (classes [n], scores [n], subset sizes [k], number of classes) -> selected sample for each size
Selector = Callable[..., Int[Array, "k"]]


def majority_vote(answers: Answers) -> Int[Array, "*batch"]:
    """The most frequent answer.

    Example:
        >>> majority_vote(jnp.array([[3, 5, 5], [7, 2, 9]]))
        Array([5, 7], dtype=int32)
    """
    return weighted_vote(answers, jnp.ones(jnp.shape(answers)))


def weighted_vote(answers: Answers, scores: Scores) -> Int[Array, "*batch"]:
    """The answer with the largest sum of scores.

    Scores are summed raw: with negative ones frequency counts against an answer. Shift them, or
    pass their softmax, where that is not meant.

    Raises:
        ValueError: answers and scores of different shapes, no sample, or, outside of jit, where
            values cannot be looked at, a score that is not finite.

    Example:
        >>> weighted_vote(jnp.array([3, 5, 5]), jnp.array([0.9, 0.2, 0.3]))
        Array(3, dtype=int32)
    """
    return _answers_of(vote, answers, scores)


def best_of_n(answers: Answers, scores: Scores) -> Int[Array, "*batch"]:
    """The answer of the sample with the highest score.

    Raises:
        ValueError: answers and scores of different shapes, no sample, or, outside of jit, where
            values cannot be looked at, a score that is not finite.

    Example:
        >>> best_of_n(jnp.array([3, 5, 5]), jnp.array([0.1, 0.2, 0.3]))
        Array(5, dtype=int32)
    """
    return _answers_of(best, answers, scores)


def oracle(correct: Bool[Array, "*batch n"]) -> Bool[Array, "*batch"]:
    """Whether any answer is right: what the best selector can reach. Its mean is coverage."""
    return jnp.any(jnp.asarray(correct), axis=-1)


def vote(
    classes: Int[Array, "n"], scores: Float[Array, "n"], ks: Int[Array, "k"], count: int
) -> Int[Array, "k"]:
    """First sample of the class with the largest sum among the first k samples, for every k.

    The sum of a class runs over its own samples in their order: a product with the matrix of
    equal answers could round classes that are exactly tied to different sums.

    Args:
        classes: numbers below `count`.
        scores: what a sample adds to its class; ones for the plain majority.
        ks: how many samples take part, ascending.
        count: of classes.
    """
    n = len(classes)
    position = jnp.arange(n)
    first = jnp.full(count, n).at[classes].min(position)
    stretch = jnp.searchsorted(ks, position, side="right")  # the first k that a sample is part of
    added = jnp.zeros((len(ks), count), scores.dtype).at[stretch, classes].add(scores, mode="drop")
    total = jnp.cumsum(added, axis=0)
    present = first[None, :] < ks[:, None]
    highest = jnp.max(total, axis=1, keepdims=True, initial=-jnp.inf, where=present)
    return jnp.where(total == highest, first[None, :], n).min(1)  # absent ones come later


def best(
    classes: Int[Array, "n"], scores: Float[Array, "n"], ks: Int[Array, "k"], count: int
) -> Int[Array, "k"]:
    """The sample with the highest score among the first k, for every k; classes do not matter."""
    del classes, count
    highest = jax.lax.cummax(scores)
    record = jnp.concatenate([jnp.ones(1, bool), highest[1:] > highest[:-1]])
    return jax.lax.cummax(jnp.where(record, jnp.arange(len(scores)), 0))[ks - 1]


def at_least_float32(scores: Float[Array, "..."]) -> Float[Array, "..."]:
    """Scores in a type that can add them up; integers become floats."""
    return scores.astype(jnp.promote_types(scores.dtype, jnp.float32))


def _answers_of(select: Selector, answers: Answers, scores: Scores) -> Int[Array, "*batch"]:
    answers, scores = jnp.asarray(answers), jnp.asarray(scores)
    if not isinstance(scores, jax.core.Tracer) and not jnp.all(jnp.isfinite(scores)):
        raise ValueError(f"scores must be finite; got {scores[~jnp.isfinite(scores)][0]}")
    if answers.shape != scores.shape or answers.ndim == 0 or answers.shape[-1] == 0:
        raise ValueError(
            "answers and scores must be equally shaped [..., n] with n of at least 1; "
            f"got {answers.shape} and {scores.shape}"
        )
    return _selected(select, answers, at_least_float32(scores))


@partial(jax.jit, static_argnums=0)
def _selected(select: Selector, answers: Answers, scores: Scores) -> Int[Array, "*batch"]:
    n = answers.shape[-1]

    def row(answers, scores):
        classes = jnp.searchsorted(jnp.sort(answers), answers)  # any integers as numbers below n
        return answers[select(classes, scores, jnp.array([n]), n)[0]]

    rows = jax.vmap(row)(answers.reshape(-1, n), scores.reshape(-1, n))
    return rows.reshape(answers.shape[:-1])
