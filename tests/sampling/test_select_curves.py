"""Accuracy of selectors over random subsets, and its closed forms."""

from itertools import combinations, permutations

import jax
import numpy as np
import pytest

from jlab.sampling import (
    best_of_n,
    best_of_n_curve,
    best_of_n_mean,
    coverage_curve,
    majority_curve,
    majority_limit,
    majority_vote,
    random_orders,
    weighted_curve,
    weighted_vote,
)

KEY = jax.random.key(0)
PROBLEMS, N, SUBSETS = 5, 12, 6
KS = np.array([1, 4, 12])


@pytest.fixture(name="samples")
def answers_scores_and_truth():
    random = np.random.default_rng(1)
    answers = random.integers(0, 4, (PROBLEMS, N))
    scores = random.integers(0, 9, (PROBLEMS, N)) / 8  # ties, and sums without rounding
    return answers, scores.astype(np.float32), answers == 2


def subset_by_subset(select, answers, scores) -> np.ndarray:
    """The rates [subset, k] by one vote per subset."""
    orders = np.asarray(random_orders(KEY, N, SUBSETS))
    rates = []
    for k in KS:
        drawn = orders[:, :k]
        chosen = np.asarray(select(answers[:, drawn], scores[:, drawn]))
        rates.append((chosen == 2).mean(0))
    return np.stack(rates, axis=1)


@pytest.mark.parametrize(
    ("curve", "select"),
    [
        (lambda a, s, c: majority_curve(KEY, a, c, KS, subsets=SUBSETS),
         lambda a, s: majority_vote(a)),
        (lambda a, s, c: weighted_curve(KEY, a, s, c, KS, subsets=SUBSETS), weighted_vote),
        (lambda a, s, c: best_of_n_curve(KEY, s, c, KS, subsets=SUBSETS), best_of_n),
    ],
    ids=["majority", "weighted", "best"],
)  # fmt: skip
def test_a_curve_is_a_vote_for_every_subset(curve, select, samples):
    answers, scores, correct = samples
    rates = subset_by_subset(select, answers, scores)
    ours = curve(answers, scores, correct)
    np.testing.assert_array_equal(ours.k, KS)
    np.testing.assert_allclose(ours.mean, rates.mean(0), rtol=1e-12)
    np.testing.assert_allclose(ours.std, rates.std(0), rtol=1e-12, atol=1e-15)


def test_sizes_may_come_in_any_order_and_twice(samples):
    answers, _, correct = samples
    sorted_, given = np.array([1, 4, 12]), np.array([12, 1, 4, 1])
    expected = majority_curve(KEY, answers, correct, sorted_, subsets=SUBSETS)
    ours = majority_curve(KEY, answers, correct, given, subsets=SUBSETS)
    np.testing.assert_array_equal(ours.k, given)
    np.testing.assert_array_equal(ours.mean, expected.mean[[2, 0, 1, 0]])


def test_every_order_is_a_permutation_and_a_key_repeats_itself():
    orders = random_orders(KEY, N, 3)
    np.testing.assert_array_equal(np.sort(orders, axis=1), np.tile(np.arange(N), (3, 1)))
    np.testing.assert_array_equal(orders, random_orders(KEY, N, 3))
    assert len(np.unique(orders, axis=0)) == 3


def test_best_of_n_in_closed_form_is_the_mean_over_all_subsets():
    scores = np.array([[0.5, 0.9, 0.5, 0.1, 0.5]])
    correct = np.array([[True, False, False, True, True]])
    for k in range(1, 6):
        # Over orders too: of equal scores the first in the subset wins, and each may be first.
        chosen = [
            correct[0][max(order, key=lambda i: scores[0][i])]
            for subset in combinations(range(5), k)
            for order in permutations(subset)
        ]
        mean = best_of_n_mean(scores, correct, np.array([k]))
        np.testing.assert_allclose(mean, np.mean(chosen), rtol=1e-12)


def test_a_score_that_knows_the_truth_makes_best_of_n_the_coverage():
    correct = np.random.default_rng(0).random((20, 50)) < 0.1
    ks = np.array([1, 5, 50])
    mean = best_of_n_mean(correct.astype(float), correct, ks)
    np.testing.assert_allclose(mean, coverage_curve(50, correct.sum(1), ks), rtol=1e-12)


def test_sampled_best_of_n_comes_to_its_mean(samples):
    _, scores, correct = samples
    curve = best_of_n_curve(KEY, scores, correct, KS, subsets=2000)
    mean = best_of_n_mean(scores, correct, KS)
    # Four standard errors; with all samples and ties only the order is random.
    np.testing.assert_array_less(np.abs(curve.mean - mean), 4 * curve.std / 2000**0.5 + 1e-9)


def test_the_majority_tends_to_the_mode():
    answers = np.array([[1, 1, 2], [3, 4, 4], [5, 6, 7]])
    correct = np.array([[True, True, False], [True, False, False], [True, False, False]])
    # Modes: right, wrong, and one of three tied ones right.
    np.testing.assert_allclose(majority_limit(answers, correct), (1 + 0 + 1 / 3) / 3)


def test_a_majority_can_be_wrong_where_coverage_is_complete():
    """The gap that a selector leaves: a third of the samples right, all on their own."""
    answers = np.tile([0, 0, 1], (4, 10))
    correct = answers == 1
    curve = majority_curve(KEY, answers, correct, np.array([1, 30]), subsets=200)
    # Three standard errors: 200 draws, the same ones for all problems.
    np.testing.assert_allclose(curve.mean[0], 1 / 3, atol=0.1)
    assert curve.mean[1] == 0 == majority_limit(answers, correct)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda a, s, c: majority_curve(KEY, a, c, [0]), r"ks must be \[k\] and lie in \[1, 12\]"),
        (lambda a, s, c: majority_curve(KEY, a, c[:, 1:], [1]), r"equally shaped \[problems, n\]"),
        (lambda a, s, c: weighted_curve(KEY, a, s / 0, c, [1]), "scores must be finite; got"),
        (lambda a, s, c: majority_curve(KEY, a, c, [1], subsets=0), "subsets must be at least 1"),
        (lambda a, s, c: best_of_n_mean(s, c, [13]), r"lie in \[1, 12\]; got \[13\]"),
        (lambda a, s, c: majority_limit(a, c[0]), r"got \(5, 12\), \(12,\)"),
    ],
)
def test_impossible_curves_are_refused(call, message, samples):
    with np.errstate(divide="ignore", invalid="ignore"), pytest.raises(ValueError, match=message):
        call(*samples)
