"""The rows of the released runs; their lists are golden cases."""

import pytest

from jlab.sampling import gsm8k_subset
from jlab.sampling.subset import TEST_ROWS


def test_the_row_with_the_wrong_gold_answer_is_among_the_papers():
    assert gsm8k_subset(shots=5).test.index(1042) == 57
    assert 1042 not in gsm8k_subset(shots=2).test


def test_all_rows_are_drawn_once_and_fewer_are_their_beginning():
    rows = gsm8k_subset(problems=TEST_ROWS, shots=0, seed=3)
    assert sorted(rows.test) == list(range(TEST_ROWS))
    assert set(map(tuple, rows.shots)) == {()}
    assert gsm8k_subset(problems=9, shots=0, seed=3).test == rows.test[:9]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"problems": 1320}, r"problems must be in \[0, 1319\]; got 1320"),
        ({"shots": -1}, r"shots must be in \[0, 7473\]; got -1"),
    ],
)
def test_more_rows_than_there_are_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        gsm8k_subset(**settings)
