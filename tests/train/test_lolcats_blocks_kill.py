"""Transfer by block that breaks off anywhere goes on, and keeps two streams on disk at most."""

import os
import re
import signal
from pathlib import Path

import pytest

from jlab.training import Interrupted, Run
from jlab.training.residuals import Residuals
from tests.train.blocks import LENGTH, by_block, linearized
from tests.training.runs import assert_same_bits, rows

pytestmark = pytest.mark.usefixtures("compiled_once")


class Broken(Exception):
    """Stands for a kill."""


def broken_at(monkeypatch, owner, method, call, after=True, by=None):
    """Break off just before or after a call of a method, the how-manieth is given, from 1."""
    original, seen = getattr(owner, method), []

    def counted(self, *arguments):
        seen.append(self)
        if len(seen) == call and not after:
            raise Broken
        result = original(self, *arguments)
        if len(seen) == call:
            if by is None:
                raise Broken
            os.kill(os.getpid(), by)
        return result

    monkeypatch.setattr(owner, method, counted)


def logged(folder):
    """What each block has logged, the clock aside."""
    return {part.name: rows(part) for part in sorted(folder.glob("block-*"))}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """Folder, maps, and what lay on disk whenever part of a stream was written or a step logged."""
    folder, there = tmp_path_factory.mktemp("unbroken"), []
    with pytest.MonkeyPatch.context() as patch:
        for owner, method in ((Residuals, "_tell"), (Run, "log")):
            original = getattr(owner, method)

            def noted(self, *arguments, original=original):
                held = {path.name for path in (folder / "streams").glob("*.bin")}
                there.append(held | mapped(folder))
                return original(self, *arguments)

            patch.setattr(owner, method, noted)
        maps = by_block(folder, 1, linearized(kind="linear"))
    return folder, maps, there


def mapped(folder):
    """Streams that take up disk because they are mapped, whether a folder names them or not."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return {re.search(r"block-\d+\.bin", line)[0] for line in lines if f"{folder}/streams" in line}


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc")
def test_at_most_two_streams_are_on_disk_and_in_the_end_none(unbroken):
    folder, _, there = unbroken
    assert set(map(len, there)) == {1, 2}
    assert {name for held in there for name in held} == {f"block-0{n}.bin" for n in range(3)}
    assert not list((folder / "streams").iterdir())
    assert not mapped(folder)


def test_the_disk_that_a_stream_takes_is_told_beforehand(tmp_path):
    config, _ = given = linearized(kind="linear")
    sizes = []

    def tell(self, done, original=Residuals._tell):
        sizes.append(self.path.stat().st_size)
        original(self, done)
        raise Broken

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Residuals, "_tell", tell)
        with pytest.raises(Broken):
            by_block(tmp_path, 1, given)
    assert sizes == [14 * LENGTH * config.d_model * 4]  # 8 windows of one group, 6 of the other


# A stream holds 8 windows of the larger group and all 6 of the smaller: 4 parts of 4 or 2. A block
# logs its plan and 4 steps.
BREAKS = {
    "in the first stream, a part written but not told": (Residuals, "_tell", 2, False),
    "in the stream that leaves the first block": (Residuals, "_tell", 6, True),
    "before the first block is marked as done": (Run, "write_result", 1, False),
    "before the stream that entered it is removed": (Run, "write_result", 1, True),
    "after it is removed": (Residuals, "remove", 1, True),
    "in the training of the second block": (Run, "log", 9, False),
    "before the last stream is removed": (Run, "write_result", 3, True),
    "by a signal in the first stream": (Residuals, "_tell", 1, True, signal.SIGTERM),
    "by a signal in the training of the second block": (Run, "log", 8, True, signal.SIGTERM),
}


# One of a stream and one of training are in the fast tests.
RARE = BREAKS.keys() - {
    "in the stream that leaves the first block",
    "by a signal in the training of the second block",
}


@pytest.mark.parametrize(
    "where",
    [
        pytest.param(where, id=name, marks=[pytest.mark.slow] if name in RARE else [])
        for name, where in BREAKS.items()
    ],
)
def test_a_run_that_broke_off_ends_bit_equal_to_the_unbroken_one(tmp_path, unbroken, where):
    folder, expected, _ = unbroken
    given = linearized(kind="linear")
    with pytest.MonkeyPatch.context() as patch:
        broken_at(patch, *where)
        with pytest.raises((Broken, Interrupted)):
            by_block(tmp_path, 1, given)
    assert_same_bits(by_block(tmp_path, 1, given), expected)
    assert logged(tmp_path) == logged(folder)
    assert not list((tmp_path / "streams").iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("lost", ["block-01.bin", "block-01.json"])
@pytest.mark.parametrize("left", [None, 3])
def test_a_stream_in_the_middle_that_is_lost_is_named(tmp_path, lost, left):
    """What it was made of is gone: nothing can bring it back."""
    given = linearized(kind="linear")
    with pytest.MonkeyPatch.context() as patch:
        broken_at(patch, Residuals, "remove", 1)
        with pytest.raises(Broken):
            by_block(tmp_path, 1, given)
    path = tmp_path / "streams" / lost
    if left is None:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(ValueError, match=r"block-01.bin must hold 14 windows; got 0: .* new run"):
        by_block(tmp_path, 1, given)


def test_a_block_that_is_done_needs_its_checkpoint(tmp_path):
    """It would be trained again from an earlier one, but what entered it is no longer on disk."""
    given = linearized(kind="linear")
    with pytest.MonkeyPatch.context() as patch:
        broken_at(patch, Residuals, "remove", 1)
        with pytest.raises(Broken):
            by_block(tmp_path, 1, given)
    data = tmp_path / "block-00" / "checkpoints" / "4" / "default" / "_METADATA"
    data.write_bytes(data.read_bytes()[:-1])
    with (
        pytest.warns(UserWarning, match="checkpoint .*/4 is damaged"),
        pytest.raises(ValueError, match=r"block-00.bin must hold 14 windows; got 0"),
    ):
        by_block(tmp_path, 1, given)
