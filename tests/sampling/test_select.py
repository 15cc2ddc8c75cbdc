"""Selectors of one answer among many."""

from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from jlab.sampling import best_of_n, majority_vote, oracle, weighted_vote

N = 7  # samples of the drawn cases: one shape, one compilation
ANSWERS = hnp.arrays(np.int32, N, elements=st.integers(-3, 3))
SCORES = hnp.arrays(np.float32, N, elements=st.integers(-4, 4).map(float))  # sums are exact


def weighted_by_hand(answers, scores):
    totals = Counter()
    for answer, score in zip(answers.tolist(), scores.tolist(), strict=True):
        totals[answer] += score  # a Counter keeps the order of first appearance
    return max(totals, key=totals.get)


@given(ANSWERS, SCORES)
def test_votes_add_scores_and_the_first_of_equals_wins(answers, scores):
    assert weighted_vote(answers, scores) == weighted_by_hand(answers, scores)
    assert majority_vote(answers) == weighted_by_hand(answers, np.ones(N))
    assert best_of_n(answers, scores) == answers[np.argmax(scores)]


@given(ANSWERS, SCORES)
def test_equal_scores_make_a_weighted_vote_a_majority(answers, scores):
    equal = np.full(N, 0.3, np.float32)
    assert weighted_vote(answers, equal) == majority_vote(answers)


@given(ANSWERS, SCORES)
def test_renaming_the_answers_renames_the_choice(answers, scores):
    assert weighted_vote(10 - 3 * answers, scores) == 10 - 3 * weighted_vote(answers, scores)


def test_ties_by_hand():
    assert majority_vote(jnp.array([2, 1, 1, 2])) == 2
    assert best_of_n(jnp.array([5, 6, 7, 8]), jnp.array([0.1, 0.4, 0.4, 0.2])) == 6
    # 3 has 0.5 + 0.5, 4 has 1: equal, and 4 comes first.
    assert weighted_vote(jnp.array([4, 3, 3, 1]), jnp.array([1.0, 0.5, 0.5, 0.2])) == 4


def test_negative_scores_count_against_frequent_answers():
    assert weighted_vote(jnp.array([1, 1, 2, 3]), jnp.array([-0.4, -0.4, -0.5, -0.6])) == 2


def test_batches_equal_rows_and_jit_equals_eager():
    random = np.random.default_rng(0)
    answers, scores = random.integers(0, 4, (2, 3, N)), random.random((2, 3, N)).astype("f4")
    with jax.numpy_dtype_promotion("strict"):
        together = jax.jit(weighted_vote)(answers, scores)
    pairs = zip(answers.reshape(-1, N), scores.reshape(-1, N), strict=True)
    rows = [weighted_vote(*pair) for pair in pairs]
    np.testing.assert_array_equal(together.ravel(), rows)
    np.testing.assert_array_equal(jax.vmap(jax.vmap(weighted_vote))(answers, scores), together)


def test_the_oracle_is_right_where_any_sample_is():
    np.testing.assert_array_equal(oracle([[False, True], [False, False]]), [True, False])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: majority_vote(np.zeros((2, 0), int)), r"n of at least 1; got \(2, 0\)"),
        (lambda: best_of_n([1, 2], [0.5]), r"equally shaped .* got \(2,\) and \(1,\)"),
        (lambda: best_of_n([1, 2], [np.nan, 1.0]), "scores must be finite; got nan"),
        (lambda: weighted_vote([1, 2], [1.0, -np.inf]), "scores must be finite; got -inf"),
        (lambda: weighted_vote(1, 0.5), r"equally shaped \[\.\.\., n\]"),
    ],
)
def test_mismatched_samples_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
