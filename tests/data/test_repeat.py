"""Text said twice is text, twice, and only its repetition is learned."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jlab.data import (
    DataConfig,
    load_groups,
    make_batch,
    pack,
    repeated,
    with_repeats,
)


def test_a_window_by_hand():
    packed = pack([np.arange(1, 18)], 8)
    twice = repeated([packed], 2)
    batch = make_batch([twice], np.zeros(2, int), np.arange(2))
    # Four pieces of four tokens; two of them, from all over the text.
    np.testing.assert_array_equal(batch.tokens, [[1, 2, 3, 4] * 2, [9, 10, 11, 12] * 2])
    np.testing.assert_array_equal(batch.mask, [[0, 0, 0, 0, 1, 1, 1, 0]] * 2)
    np.testing.assert_array_equal(batch.targets[0, 4:7], [2, 3, 4])
    np.testing.assert_array_equal(batch.segment_ids, 0)


@given(st.integers(2, 6), st.lists(st.integers(0, 60), min_size=1, max_size=4), st.integers(1, 9))
def test_the_second_half_is_the_first(half, sizes, windows):
    groups = [pack([np.arange(size) + 100 * g], 2 * half) for g, size in enumerate(sizes)]
    if not any(size >= half for size in sizes):
        with pytest.raises(ValueError, match="windows must be at least 1"):
            repeated(groups, windows)
        return
    twice = repeated(groups, windows)
    assert 1 <= len(twice) <= windows
    rows, documents = twice.rows(np.arange(len(twice)))
    np.testing.assert_array_equal(rows[:, :half], rows[:, half:-1])
    assert (documents[:, :-1] == np.arange(len(twice))[:, None]).all()
    # Each half is a piece of one group as it stands there.
    np.testing.assert_array_equal(np.diff(rows[:, :half], axis=1), 1)
    counted = twice.counted(np.arange(len(twice)))
    assert (counted.sum(1) == half - 1).all()


def test_every_group_has_its_share():
    groups = [pack([np.full(400, g)], 8) for g in (1, 2, 3)]
    tokens = repeated(groups, 30).rows(np.arange(30))[0][:, 0]
    np.testing.assert_array_equal(np.bincount(tokens), [0, 10, 10, 10])


@pytest.mark.parametrize("length", [3, 2, 7])
def test_a_length_without_halves_is_refused(length):
    with pytest.raises(ValueError, match=f"length must be even and at least 4.*got {length}"):
        repeated([pack([np.arange(99)], length)], 4)


def test_the_group_of_text_said_twice_comes_last(tmp_path):
    """Each split repeats its own text, and a group of that name is refused."""
    text = "".join(f'{{"text": "line number {n}"}}\n' for n in range(900))
    (tmp_path / "text.jsonl").write_text(text)
    options = {"tokenizer": "bytes", "length": 16, "cache_dir": str(tmp_path)}
    groups = load_groups(DataConfig((f"g={tmp_path}/text.jsonl",), **options))
    more = with_repeats(groups)
    assert more.names == ("g", "repeats")
    for split, most in (("train", 50_000), ("validation", 1000), ("test", 1000)):
        text, twice = getattr(more, split)
        assert text is getattr(groups, split)[0]
        expected = repeated([text], len(twice))
        np.testing.assert_array_equal(twice.tokens, expected.tokens)
        assert len(twice) == min(most, len(text.tokens) // 8)
    with pytest.raises(ValueError, match=r"data\.groups: the name 'repeats' is that of text said"):
        with_repeats(more)
