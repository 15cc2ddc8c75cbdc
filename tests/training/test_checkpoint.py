"""Checkpoints: what goes in comes out; which of them stay; what does not fit; disks that fail."""

import json
import shutil
import threading
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from jlab.training import Checkpointer, OptimConfig, init_state, make_optimizer, restore_part
from jlab.training.manifest import newest_whole, write_manifest
from tests.training.runs import assert_same_bits


class State(NamedTuple):
    """One leaf of every kind that a run has."""

    train: object
    third: np.ndarray  # float64: more digits than jax keeps
    key: np.ndarray
    count: np.ndarray
    on: np.ndarray
    half: jax.Array
    empty: dict


def state(value: float) -> State:
    optimizer = make_optimizer(OptimConfig(), steps=10)
    params = {"kernel": jnp.full((2, 3), float(value)), "scale": jnp.ones(3)}
    return State(
        init_state(params, optimizer, jax.random.key(3), {"weights": jnp.ones(2)}),
        np.array([1 / 3, value * np.pi, np.nan]),
        np.array([2**32 - 1, 7], np.uint32),
        np.array(2**40, np.int64),
        np.array(True),
        jnp.array([value, jnp.inf], jnp.bfloat16),
        {},
    )


def save_all(folder, steps, best=None, metrics=(), keep=2):
    checkpointer = Checkpointer(folder, keep, best)
    metrics = dict(metrics)
    for step in steps:
        checkpointer.save(step, state(step), metrics.get(step))
    checkpointer.close()
    assert checkpointer.failures == []


def kept(folder):
    """Steps that have a checkpoint and those that have a manifest, which must be the same."""
    steps = sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit())
    manifests = sorted(int(p.stem) for p in (folder / "manifests").iterdir())
    assert steps == manifests
    return steps


def test_every_kind_of_leaf_comes_back_bit_for_bit(tmp_path):
    save_all(tmp_path, [5])
    step, restored = Checkpointer(tmp_path).restore(state(0.0))
    assert step == 5
    assert_same_bits(restored, state(5))
    assert type(restored.third) is np.ndarray
    assert isinstance(restored.train.params["kernel"], jax.Array)


def test_numbers_are_saved_and_restored_as_arrays(tmp_path):
    """A 0-d numpy array becomes a number in a sum, which must not matter."""
    checkpointer = Checkpointer(tmp_path)
    checkpointer.save(1, {"n": np.zeros((), np.int64) + 2, "x": 0.1})
    checkpointer.close()
    _, restored = Checkpointer(tmp_path).restore({"n": np.int64(0), "x": np.float64(0)})
    assert_same_bits(restored, {"n": np.array(2), "x": np.array(0.1)})


def test_there_is_nothing_to_restore_in_a_new_folder(tmp_path):
    checkpointer = Checkpointer(tmp_path / "new" / "folder")
    assert checkpointer.restore(state(0.0)) is None
    assert checkpointer.steps() == []
    checkpointer.close()


def test_the_saved_arrays_are_those_of_the_call(tmp_path):
    """The next step eats the state while the checkpoint is still being written."""
    eat = jax.jit(lambda tree: jax.tree.map(lambda x: x * 0 - 1, tree), donate_argnums=0)
    checkpointer = Checkpointer(tmp_path)
    tree = {"x": jnp.arange(200_000.0)}
    for step in (1, 2):
        checkpointer.save(step, tree)
        tree = jax.block_until_ready(eat(tree))
        tree = {"x": tree["x"] + step + 1}
    checkpointer.close()
    _, restored = Checkpointer(tmp_path).restore(tree)
    np.testing.assert_array_equal(restored["x"], np.full(200_000, 1.0))


def test_the_newest_are_kept(tmp_path):
    save_all(tmp_path, range(1, 6), keep=3)
    assert kept(tmp_path) == [3, 4, 5]


def test_the_best_is_kept_too_and_known_after_a_restart(tmp_path):
    """Losses 5, 2, 4 at steps 1, 2, 3, none at 4 and 5; restarted, 3 at step 6; again, 1 at 8."""
    losses = {1: {"loss": 5.0}, 2: {"loss": 2.0}, 3: {"loss": 4.0}}
    save_all(tmp_path, range(1, 6), "loss", losses)
    assert kept(tmp_path) == [2, 4, 5]
    save_all(tmp_path, (6, 7), "loss", {6: {"loss": 3.0}})
    assert kept(tmp_path) == [2, 6, 7]
    save_all(tmp_path, (8, 9, 10), "loss", {8: {"loss": 1.0}})
    assert kept(tmp_path) == [8, 9, 10]
    save_all(tmp_path, (11,), "loss", {11: {"loss": float("nan")}})
    assert kept(tmp_path) == [8, 10, 11]


def test_a_step_that_is_saved_already_stays_as_it_is(tmp_path):
    save_all(tmp_path, [1, 2])
    before = (tmp_path / "manifests/2.json").read_text()
    checkpointer = Checkpointer(tmp_path)
    checkpointer.restore(state(0.0))
    checkpointer.save(2, state(99))
    checkpointer.save(3, state(3))
    checkpointer.save(3, state(99))
    checkpointer.close()
    assert checkpointer.failures == []
    assert (tmp_path / "manifests/2.json").read_text() == before
    assert_same_bits(Checkpointer(tmp_path).restore(state(0.0))[1], state(3))


def test_a_checkpoint_is_sealed_while_training_goes_on(tmp_path):
    """`poll` never waits: it seals once the files are there."""
    checkpointer = Checkpointer(tmp_path)
    checkpointer.save(1, state(1))
    while not (tmp_path / "manifests/1.json").exists():
        checkpointer.poll()
    checkpointer.close()
    assert kept(tmp_path) == [1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s._replace(third=np.zeros(4)), "third is float64[3] there and float64[4] here"),
        (
            lambda s: s._replace(third=np.zeros(3, np.float32)),
            "third is float64[3] there and float32[3] here",
        ),
        (
            lambda s: s._replace(train=s.train._replace(params={"kernel": jnp.ones((2, 3))})),
            "train/opt_state/1/mu/scale is float32[3] there and missing here",
        ),
        (
            lambda s: s._replace(empty={"new": np.ones(2)}),
            "empty/new is missing there and float64[2] here",
        ),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, change, message):
    save_all(tmp_path, [4])
    target = change(state(0.0))
    if "mu" in message:
        optimizer = make_optimizer(OptimConfig(), steps=10)
        target = target._replace(
            train=init_state(target.train.params, optimizer, jax.random.key(0), target.train.extras)
        )
    with pytest.raises(ValueError, match="does not fit") as refused:
        Checkpointer(tmp_path).restore(target)
    assert f"checkpoint {tmp_path / '4'} does not fit this model: {message}" in str(refused.value)
    assert kept(tmp_path) == [4]


def test_one_part_is_restored_without_the_rest(tmp_path):
    save_all(tmp_path, [1, 2])
    target = jax.tree.map(jnp.zeros_like, state(0.0).train.params)
    part = restore_part(tmp_path, {"train": {"params": target}})["train"]["params"]
    assert_same_bits(part, state(2).train.params)
    assert newest_whole(tmp_path) == (2, tmp_path / "manifests/2.json")


def test_there_must_be_a_whole_checkpoint_to_restore_a_part_of(tmp_path):
    save_all(tmp_path, [1])
    (tmp_path / "manifests/1.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"holds no checkpoint that is whole; it has \[1\]"):
        restore_part(tmp_path, {"train": {"params": state(0.0).train.params}})
    assert (tmp_path / "1").exists()  # reading moves nothing


def test_fewer_than_two_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"^keep must be >= 2, so that .*; got 1$"):
        Checkpointer(tmp_path, keep=1)


FULL = OSError(28, "No space left on device")


def fails_at_once(monkeypatch, steps):
    save = ocp.CheckpointManager.save

    def failing(self, step, *args, **kwargs):
        if step in steps:
            (self.directory / f"{step}.orbax-checkpoint-tmp").mkdir()
            raise FULL
        return save(self, step, *args, **kwargs)

    monkeypatch.setattr(ocp.CheckpointManager, "save", failing)


def fails_in_the_background(monkeypatch, steps):
    finalize = ocp.CheckpointManager._finalize

    def failing(self, step, *args):
        finalize(self, step, *args)
        if step in steps:
            raise ValueError("RESOURCE_EXHAUSTED: {'long': 1} [os_error_code='28']\nmore lines")

    monkeypatch.setattr(ocp.CheckpointManager, "_finalize", failing)


def fails_at_the_manifest(monkeypatch, steps):
    def failing(folder, step, metrics):
        if step in steps:
            raise FULL
        write_manifest(folder, step, metrics)

    monkeypatch.setattr("jlab.training.checkpoint.write_manifest", failing)


@pytest.mark.parametrize("failing", [fails_at_once, fails_in_the_background, fails_at_the_manifest])
@pytest.mark.parametrize("polled", [True, False])
def test_a_failing_disk_is_told_once_and_harms_no_other_checkpoint(
    tmp_path, monkeypatch, failing, polled
):
    failing(monkeypatch, {2, 3})
    checkpointer = Checkpointer(tmp_path)

    def train():
        for step in (1, 2, 3, 4):
            checkpointer.save(step, state(step))
            while polled and checkpointer._unsealed is not None:
                checkpointer.poll()
        checkpointer.close()

    with pytest.warns(UserWarning, match=r"step 2 could not .*; training goes on") as told:
        train()
    assert len(told) == 1
    names = [failure.removeprefix("checkpoint of step ") for failure in checkpointer.failures]
    assert [name.split(" ", 1)[0] for name in names] == ["2", "3"]
    assert all(name.endswith("No space left on device") for name in names)
    assert kept(tmp_path) == [1, 4]  # nothing half written is left to fill the disk
    assert {p.name for p in tmp_path.iterdir()} == {"1", "4", "manifests"}
    assert_same_bits(Checkpointer(tmp_path).restore(state(0.0))[1], state(4))


@pytest.mark.parametrize("failing", [fails_in_the_background, fails_at_the_manifest])
def test_the_last_save_can_fail_as_well_and_is_told_once(tmp_path, monkeypatch, failing):
    failing(monkeypatch, {2})
    checkpointer = Checkpointer(tmp_path)
    checkpointer.save(1, state(1))
    checkpointer.save(2, state(2))
    with pytest.warns(UserWarning, match="step 2"):
        checkpointer.save(1, state(1))  # is there already
    checkpointer.close()
    assert len(checkpointer.failures) == 1
    assert kept(tmp_path) == [1]


def test_training_goes_on_when_the_folder_is_gone(tmp_path):
    checkpointer = Checkpointer(tmp_path / "checkpoints")
    checkpointer.save(1, state(1))
    checkpointer._finish()
    shutil.rmtree(tmp_path / "checkpoints")
    (tmp_path / "checkpoints").write_text("in the way")
    with pytest.warns(UserWarning, match="step 2"):
        checkpointer.save(2, state(2))
    checkpointer.close()
    assert len(checkpointer.failures) == 1


def test_no_thread_is_left_behind(tmp_path):
    before = set(threading.enumerate())
    save_all(tmp_path, [1])
    left = [t for t in set(threading.enumerate()) - before if not t.daemon and t.is_alive()]
    assert [t.name for t in left if t.name.startswith("ThreadPoolExecutor")] == []


def test_a_manifest_lists_all_files_and_the_metrics(tmp_path):
    save_all(tmp_path, [3], "loss", {3: {"loss": 0.5}})
    manifest = json.loads((tmp_path / "manifests/3.json").read_text())
    files = {p.relative_to(tmp_path / "3").as_posix() for p in (tmp_path / "3").rglob("*")}
    assert manifest["files"].keys() == {f for f in files if (tmp_path / "3" / f).is_file()}
    assert manifest["metrics"] == {"loss": 0.5}
