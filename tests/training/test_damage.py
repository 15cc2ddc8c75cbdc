"""The damage matrix: every file of a checkpoint, harmed in every way, is named and survived."""

import shutil

import numpy as np
import pytest

from jlab.training import Checkpointer
from jlab.training.manifest import damage

TREE = {"x": np.arange(2000.0), "n": np.array(3)}


def tree(step):
    return {"x": TREE["x"] + step, "n": np.array(step)}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Two checkpoints, of steps 1 and 2."""
    folder = tmp_path_factory.mktemp("whole")
    checkpointer = Checkpointer(folder)
    for step in (1, 2):
        checkpointer.save(step, tree(step))
    checkpointer.close()
    return folder


def truncated(path):
    path.write_bytes(path.read_bytes()[:-1])


def bit_flipped(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def emptied(path):
    path.write_bytes(b"")


def replaced(path):
    path.write_bytes(b"\xff\x00 not what was here")


def deleted(path):
    path.unlink()


HARMS = [truncated, bit_flipped, emptied, replaced, deleted]


def contents(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def survives(folder, named, aside=True):
    """Restoring warns with `named`, uses step 1, and leaves step 2 to be written again."""
    harmed = contents(folder / "2")
    checkpointer = Checkpointer(folder)
    with pytest.warns(UserWarning, match="using the one before") as told:
        step, restored = checkpointer.restore(TREE)
    (warning,) = (str(w.message) for w in told)
    assert warning == f"checkpoint {folder / '2'} is damaged ({named}); using the one before"
    assert step == 1
    np.testing.assert_array_equal(restored["x"], tree(1)["x"])
    assert contents(folder / "damaged/2") == harmed
    return checkpointer


@pytest.mark.parametrize("harm", HARMS, ids=lambda h: h.__name__)
def test_any_harm_to_any_file_is_named_and_the_checkpoint_before_is_used(whole, tmp_path, harm):
    names = [p.relative_to(whole / "2") for p in sorted((whole / "2").rglob("*")) if p.is_file()]
    assert len(names) >= 8
    for number, name in enumerate(names):
        folder = tmp_path / str(number)
        shutil.copytree(whole, folder)
        path = folder / "2" / name
        if harm in (truncated, bit_flipped) and not path.stat().st_size:
            continue  # commit marks are empty files
        before = path.read_bytes()
        harm(path)
        if path.exists() and path.read_bytes() == before:
            continue  # an empty file emptied
        what = "is missing" if harm is deleted else "does not match its checksum"
        survives(folder, f"{name.as_posix()} {what}").close()


@pytest.mark.parametrize("harm", HARMS, ids=lambda h: h.__name__)
def test_the_harmed_step_can_be_saved_again(whole, tmp_path, harm):
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    harm(folder / "2/default/manifest.ocdbt")
    name = "default/manifest.ocdbt"
    what = "is missing" if harm is deleted else "does not match its checksum"
    checkpointer = survives(folder, f"{name} {what}")
    for step in (2, 3):
        checkpointer.save(step, tree(step))
    checkpointer.close()
    assert checkpointer.failures == []
    assert sorted(p.name for p in folder.iterdir()) == ["2", "3", "damaged", "manifests"]
    step, restored = Checkpointer(folder).restore(TREE)
    assert step == 3
    np.testing.assert_array_equal(restored["x"], tree(3)["x"])


UNREADABLE, MISSING = "its manifest cannot be read", "no manifest: it was never finished"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (None, MISSING),  # killed between the commit and the manifest
        (b"", UNREADABLE),
        (b'{"files": {"a"', UNREADABLE),
        (b"\xff\xfe\x00", UNREADABLE),
        (b"[1]", UNREADABLE),
        (b"null", UNREADABLE),
        (b"{}", UNREADABLE),
        (b'{"files": {}}', UNREADABLE),
        (b'{"files": [1], "metrics": {}}', UNREADABLE),
        (b'{"files": {"a": "b"}}', UNREADABLE),
        (b'{"files": {"a": "b"}, "metrics": {}}', "a is missing"),
    ],
)
def test_a_manifest_that_is_missing_or_harmed_counts_as_damage(whole, tmp_path, text, named):
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    manifest = folder / "manifests/2.json"
    manifest.unlink() if text is None else manifest.write_bytes(text)
    survives(folder, named).close()
    assert not manifest.exists()


@pytest.mark.parametrize("harm", [truncated, bit_flipped, emptied, replaced, deleted])
def test_a_harmed_manifest_is_never_taken_for_whole(whole, tmp_path, harm):
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    harm(folder / "manifests/2.json")
    assert damage(folder, 2) is not None
    assert damage(folder, 1) is None


def test_with_all_damaged_there_is_nothing_to_restore_and_nothing_is_deleted(whole, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    emptied(folder / "1/default/_METADATA")
    (folder / "manifests/2.json").unlink()
    harmed = contents(folder / "1"), contents(folder / "2")
    checkpointer = Checkpointer(folder)
    with pytest.warns(UserWarning, match="is damaged") as told:
        assert checkpointer.restore(TREE) is None
    assert len(told) == 2
    assert (contents(folder / "damaged/1"), contents(folder / "damaged/2")) == harmed
    checkpointer.save(1, tree(1))
    checkpointer.close()
    assert Checkpointer(folder).restore(TREE)[0] == 1


def test_a_step_damaged_twice_is_moved_aside_twice(whole, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    for _ in range(2):
        (folder / "manifests/2.json").unlink()
        checkpointer = survives(folder, MISSING)
        checkpointer.save(2, tree(2))
        checkpointer.close()


def test_what_a_killed_save_left_is_cleared_away(whole, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    shutil.copytree(folder / "2", folder / "3.orbax-checkpoint-tmp")
    checkpointer = Checkpointer(folder)
    assert checkpointer.restore(TREE)[0] == 2
    checkpointer.save(3, tree(3))
    checkpointer.close()
    assert checkpointer.failures == []
    assert Checkpointer(folder).restore(TREE)[0] == 3
    assert not (folder / "3.orbax-checkpoint-tmp").exists()
