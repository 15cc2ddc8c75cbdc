"""Streams on disk: what is read is what was computed, whatever broke off while it was written."""

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jlab.data import MixtureLoader, pack
from jlab.training.residuals import Residuals, StreamLoader, Windows, drawn_windows

LENGTH, WIDTH = 3, 2
STREAM = np.arange(9 * LENGTH * WIDTH, dtype=np.float32).reshape(9, LENGTH, WIDTH) + 0.5


class Broken(Exception):
    """Stands for a kill."""


class Computed:
    """`compute` of the first windows of `STREAM`, that keeps what it was asked for."""

    def __init__(self, dies_at=None):
        self.asked, self.dies_at = [], dies_at

    def __call__(self, numbers):
        if len(self.asked) == self.dies_at:
            raise Broken
        self.asked.append(numbers.tolist())
        return STREAM[numbers]

    def windows(self):
        return [number for part in self.asked for number in part]


def residuals(folder, windows=7, dtype="float32"):
    return Residuals(Path(folder) / "streams" / "s.bin", (windows, LENGTH, WIDTH), dtype)


def no_more_than(limit):
    def check(done):
        if done >= limit:
            raise Broken

    return check


@given(st.integers(1, 9), st.integers(1, 11))
@settings(max_examples=15)
def test_what_was_computed_is_read(tmp_path_factory, windows, rows):
    stream, compute = residuals(tmp_path_factory.mktemp("r"), windows), Computed()
    heard = []
    assert stream.done == 0
    stream.write(compute, rows, heard.append)
    assert stream.complete
    assert stream.path.stat().st_size == stream.nbytes == windows * LENGTH * WIDTH * 4
    numbers = np.random.default_rng(rows).permutation(windows)
    np.testing.assert_array_equal(stream.read(numbers), STREAM[numbers])
    assert {len(numbers) for numbers in compute.asked} == {rows}  # one shape, compiled once
    assert heard == [min(n, windows) for n in range(rows, windows + rows, rows)]
    assert max(map(max, compute.asked)) < windows


@given(st.integers(1, 4), st.integers(0, 6), st.booleans())
@settings(max_examples=15)
def test_a_broken_write_goes_on_and_computes_no_window_twice(tmp_path_factory, rows, at, hard):
    """Broken off between two parts, or within the computation of one."""
    folder = tmp_path_factory.mktemp("r")
    first, second = Computed(dies_at=at if hard else None), Computed()
    try:
        check = (lambda done: None) if hard else no_more_than(at + 1)
        residuals(folder).write(first, rows, check)
    except Broken:
        pass
    again = residuals(folder)
    assert again.done == min(7, sum(map(len, first.asked)))
    again.write(second, rows)
    np.testing.assert_array_equal(again.read(np.arange(7)), STREAM[:7])
    assert not set(first.windows()) & set(second.windows())


@pytest.mark.parametrize("lost", ["s.bin", "s.json", "both"])
def test_without_stream_or_progress_it_is_written_again(tmp_path, lost):
    with pytest.raises(Broken):
        residuals(tmp_path).write(Computed(), 2, no_more_than(4))
    for name in ("s.bin", "s.json") if lost == "both" else (lost,):
        (tmp_path / "streams" / name).unlink()
    again, compute = residuals(tmp_path), Computed()
    assert again.done == 0
    again.write(compute, 2)
    assert compute.windows() == [*range(7), 6]
    np.testing.assert_array_equal(again.read(np.arange(7)), STREAM[:7])


def test_old_progress_does_not_speak_for_a_new_stream(tmp_path):
    """The stream was lost, and a second kill came before its first part was there again."""
    with pytest.raises(Broken):
        residuals(tmp_path).write(Computed(), 2, no_more_than(4))
    residuals(tmp_path).path.unlink()
    with pytest.raises(Broken):
        residuals(tmp_path).write(Computed(dies_at=0), 2)
    again = residuals(tmp_path)
    assert again.done == 0
    again.write(Computed(), 2)
    np.testing.assert_array_equal(again.read(np.arange(7)), STREAM[:7])


@pytest.mark.parametrize(
    ("name", "left"), [("s.bin", 20), ("s.bin", 0), ("s.json", 5), ("s.json", 0)]
)
def test_what_was_cut_short_is_written_again(tmp_path, name, left):
    """A stream always has its whole size: what was cut off would come back as zeros."""
    with pytest.raises(Broken):
        residuals(tmp_path).write(Computed(), 2, no_more_than(4))
    path = tmp_path / "streams" / name
    path.write_bytes(path.read_bytes()[:left])
    again = residuals(tmp_path)
    assert again.done == 0
    again.write(Computed(), 2)
    np.testing.assert_array_equal(again.read(np.arange(7)), STREAM[:7])


def test_a_stream_that_is_not_whole_is_not_read(tmp_path):
    stream = residuals(tmp_path)
    with pytest.raises(Broken):
        stream.write(Computed(), 2, no_more_than(4))
    with pytest.raises(ValueError, match=r"s.bin must hold 7 windows; got 4: .* start a new run"):
        stream.read(np.array([0]))
    stream.write(Computed(), 2)
    np.testing.assert_array_equal(stream.read(np.array([6])), STREAM[6:7])


def test_progress_is_never_ahead_of_the_stream(tmp_path):
    """Whoever looks after a part finds as many windows as are told."""
    stream = residuals(tmp_path)

    def check(done):
        told = json.loads((tmp_path / "streams" / "s.json").read_text())
        assert told == {"windows": done} == {"windows": stream.done}
        there = np.fromfile(stream.path, np.float32).reshape(stream.shape)
        np.testing.assert_array_equal(there[:done], STREAM[:done])

    stream.write(Computed(), 3, check)
    assert sorted(p.name for p in stream.path.parent.iterdir()) == ["s.bin", "s.json"]


def test_bfloat16_takes_half_the_disk_and_comes_back_to_the_bit(tmp_path):
    stream, narrow = residuals(tmp_path, 9, "bfloat16"), STREAM.astype(jnp.bfloat16)
    stream.write(lambda numbers: narrow[numbers], 2)
    assert stream.path.stat().st_size == 9 * LENGTH * WIDTH * 2
    found = stream.read(np.array([8, 0, 8]))
    assert found.dtype == jnp.bfloat16
    np.testing.assert_array_equal(found, narrow[[8, 0, 8]])


def test_a_stream_that_is_removed_frees_the_disk(tmp_path):
    """A file that is still mapped keeps its blocks though no folder names it."""
    stream = residuals(tmp_path)
    stream.write(Computed(), 4)
    stream.read(np.array([0]))
    stream.remove()
    assert not list(stream.path.parent.iterdir())
    maps = Path("/proc/self/maps")
    if maps.exists():
        assert str(stream.path) not in maps.read_text()
    stream.remove()  # once more is no harm
    assert stream.done == 0


# 16 windows of documents of 11 tokens, and 6 of one.
GROUPS = (
    pack([np.arange(n, n + 11) % 20 for n in range(0, 60, 11)], length=4),
    pack([np.arange(25) % 7], length=4),
)


@pytest.fixture
def loader():
    return MixtureLoader(GROUPS, batch_size=4, seed=3)


def kept(loader, steps=5):
    batches = list(loader.batches(loader.init(), np.array([0.5, 0.5]), steps))
    return [batch for batch, _ in batches], drawn_windows((b for b, _ in batches), loader)


def test_windows_are_those_drawn_each_once_in_order(loader):
    batches, windows = kept(loader)
    rows = [(g, i) for b in batches for g, i in zip(b.group.tolist(), b.ids.tolist(), strict=True)]
    assert len(set(rows)) < len(rows)  # the smaller group is through once
    expected = list(dict.fromkeys(rows))
    assert list(zip(windows.group.tolist(), windows.ids.tolist(), strict=True)) == expected
    assert len(windows) == len(expected)
    for batch in batches:
        numbers = windows.numbers(batch.group, batch.ids)
        for found, wanted in zip(windows.batch(numbers), batch, strict=True):
            np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize(("group", "ids"), [(1, 5), (0, 3), (1, 15), (0, 99), (0, -1)])
def test_a_window_that_is_not_kept_is_refused(group, ids):
    """Never drawn; beyond the smaller group; beyond both; the number of a row that only fills."""
    windows = Windows(GROUPS, np.array([0, 0, 1, 0]), np.array([0, 1, 4, 15]), True)
    assert windows.numbers(np.array([0, 1]), np.array([15, 4])).tolist() == [3, 2]
    with pytest.raises(KeyError, match=rf"windows \[{ids}\] of groups \[{group}\] are not kept"):
        windows.numbers(np.array([0, group]), np.array([1, ids]))


@pytest.mark.parametrize("mask", [True, False])
def test_a_loader_of_streams_draws_the_same_batches_with_their_streams(tmp_path, mask):
    plain = MixtureLoader(GROUPS, batch_size=4, seed=3, document_mask=mask)
    _, windows = kept(plain)

    def compute(numbers):  # a stream that tells its window's tokens
        tokens = windows.batch(numbers).tokens
        return np.stack([tokens, tokens + 100], axis=-1).astype(np.float32)

    stream = Residuals(tmp_path / "s.bin", (len(windows), 4, 2), "float32")
    stream.write(compute, 3)
    settings = {"batch_size": 4, "seed": 3, "document_mask": mask}
    streamed = StreamLoader(GROUPS, **settings, windows=windows, residuals=stream)
    shares = np.array([0.5, 0.5])
    rows = slice(1, 3)
    for part in (None, rows):
        ours = list(streamed.batches(streamed.init(), shares, 5, part))
        theirs = list(plain.batches(plain.init(), shares, 5, part))
        assert len(ours) == len(theirs) == 5
        for (batch, state), (expected, after) in zip(ours, theirs, strict=True):
            for found, wanted in zip((*batch[:-1], *state), (*expected, *after), strict=True):
                np.testing.assert_array_equal(found, wanted)
            np.testing.assert_array_equal(batch.residual[..., 0], batch.tokens)
            np.testing.assert_array_equal(batch.residual[..., 1], batch.tokens + 100)
