"""Windows cover the stream once; batches know their documents."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from jlab.data import evaluation_batches, make_batch, pack

documents = st.lists(
    hnp.arrays(np.int64, st.integers(0, 9), elements=st.integers(1, 90_000)), min_size=1, max_size=8
)


@given(documents, st.integers(1, 7))
def test_every_token_is_a_target_once_but_the_first_and_a_short_tail(docs, length):
    packed = pack(docs, length, eos_id=0)
    stream = np.concatenate([np.append(doc, 0) for doc in docs])
    windows = [packed.window(i) for i in range(len(packed))]
    targets = np.concatenate([np.empty(0, int), *(window[1:] for window in windows)])
    np.testing.assert_array_equal(targets, stream[1 : 1 + len(targets)])
    assert len(stream) - 1 - len(targets) < length


@given(documents, st.integers(1, 7))
def test_rows_are_windows_with_the_document_of_each_token(docs, length):
    packed = pack(docs, length, eos_id=0)
    owner = np.repeat(np.arange(len(docs)), [len(doc) + 1 for doc in docs])
    tokens, numbers = packed.rows(np.arange(len(packed))[::-1])
    assert tokens.shape == numbers.shape == (len(packed), length + 1)
    for window, row, number in zip(range(len(packed))[::-1], tokens, numbers, strict=True):
        np.testing.assert_array_equal(row, packed.window(window))
        np.testing.assert_array_equal(number, owner[window * length : (window + 1) * length + 1])


def test_tokens_are_16_bit_where_they_fit():
    assert pack([np.array([65_535])], 1).tokens.dtype == np.uint16
    assert pack([np.array([65_536])], 1).tokens.dtype == np.uint32


def test_a_window_outside_is_refused():
    packed = pack([np.arange(9)], 4)
    with pytest.raises(IndexError, match=r"windows must be in 0\.\.1; got \[2\]"):
        packed.rows(np.array([2]))
    with pytest.raises(ValueError, match="length must be at least 1; got 0"):
        pack([np.arange(9)], 0)


def test_a_batch_by_hand():
    # Stream 1 2 0 | 3 0 | 4 5 6 0, length 4: windows [1 2 0 3 (0)] and [0 4 5 6 (0)].
    packed = pack([np.array([1, 2]), np.array([3]), np.array([4, 5, 6])], 4, eos_id=0)
    batch = make_batch([packed], np.array([0, 0]), np.array([0, 1]))
    np.testing.assert_array_equal(batch.tokens, [[1, 2, 0, 3], [0, 4, 5, 6]])
    np.testing.assert_array_equal(batch.targets, [[2, 0, 3, 0], [4, 5, 6, 0]])
    np.testing.assert_array_equal(batch.segment_ids, [[0, 0, 0, 1], [0, 1, 1, 1]])
    np.testing.assert_array_equal(batch.positions, [[0, 1, 2, 0], [0, 0, 1, 2]])
    np.testing.assert_array_equal(batch.mask, [[1, 1, 0, 1], [0, 1, 1, 1]])  # 3 and 4 begin


def test_without_the_document_mask_a_row_is_one_segment():
    packed = pack([np.array([1, 2]), np.array([3]), np.array([4, 5, 6])], 4, eos_id=0)
    batch = make_batch([packed], np.array([0, 0]), np.array([0, 1]), document_mask=False)
    assert not batch.segment_ids.any()
    assert batch.mask.all()
    np.testing.assert_array_equal(batch.positions, [[0, 1, 2, 3]] * 2)


@given(st.lists(documents, min_size=1, max_size=3), st.integers(1, 4), st.integers(1, 5), st.data())
def test_a_row_does_not_depend_on_the_rows_beside_it(groups, length, rows, data):
    packed = [pack([np.arange(length + 1), *docs], length, eos_id=0) for docs in groups]
    group = np.array(
        data.draw(st.lists(st.integers(0, len(packed) - 1), min_size=1, max_size=rows))
    )
    ids = np.array([data.draw(st.integers(0, len(packed[g]) - 1)) for g in group])
    together = make_batch(packed, group, ids)
    for row in range(len(ids)):
        alone = make_batch(packed, group[row : row + 1], ids[row : row + 1])
        for field, value in alone._asdict().items():
            np.testing.assert_array_equal(value[0], getattr(together, field)[row], field)


@given(documents, st.integers(1, 7))
def test_positions_count_from_each_segments_first_token(docs, length):
    packed = pack(docs, length, eos_id=0)
    batch = make_batch([packed], np.zeros(len(packed), int), np.arange(len(packed)))
    for segments, positions in zip(batch.segment_ids, batch.positions, strict=True):
        for segment in np.unique(segments):
            inside = positions[segments == segment]
            np.testing.assert_array_equal(inside, np.arange(len(inside)))


@given(st.lists(st.integers(1, 9), min_size=1, max_size=4), st.integers(1, 5))
def test_evaluation_sees_every_window_once_in_batches_of_one_shape(windows, batch_size):
    packed = [pack([np.arange(4 * n + 1)], 4) for n in windows]
    batches = list(evaluation_batches(packed, batch_size))
    assert {batch.tokens.shape for batch in batches} == {(batch_size, 4)}
    seen = [
        (g, i)
        for batch in batches
        for g, i, mask in zip(batch.group.tolist(), batch.ids.tolist(), batch.mask, strict=True)
        if mask.any()
    ]
    assert seen == [(g, i) for g, n in enumerate(windows) for i in range(n)]
    assert all((batch.mask[batch.ids == -1] == 0).all() for batch in batches)


def test_a_limit_spreads_the_windows_over_each_group():
    packed = [pack([np.arange(4 * n + 1)], 4) for n in (10, 2)]
    (batch,) = evaluation_batches(packed, batch_size=8, max_windows=5)
    assert batch.group.tolist()[:7] == [0, 0, 0, 0, 0, 1, 1]
    assert batch.ids.tolist() == [0, 2, 4, 6, 8, 0, 1, -1]
    with pytest.raises(ValueError, match="batch_size and max_windows must be at least 1"):
        list(evaluation_batches(packed, 8, max_windows=0))


def test_only_learned_tokens_count_as_targets():
    packed = pack([np.arange(1, 10)], 4)
    packed = replace(packed, learned=packed.tokens % 2 == 0)
    batch = make_batch([packed], np.array([0, 0]), np.array([0, 1]))
    np.testing.assert_array_equal(batch.targets, [[2, 3, 4, 5], [6, 7, 8, 9]])
    np.testing.assert_array_equal(batch.mask, [[1, 0, 1, 0], [1, 0, 1, 0]])
