"""The loop round a step: what it does with NaN and failing disks, and what it tells the mixer."""

import json
from dataclasses import replace
from typing import NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from jlab.data import MixtureLoader
from jlab.mixing import Mixer
from jlab.mixing.mixer import make_plan
from jlab.training import LoopConfig, NonFiniteLoss, Run, init_loop_state, train_loop
from tests.training.runs import MIXERS, assert_same_bits, killed, play, rows

POISONED = 7  # the step whose batch holds a NaN


class Poisoned(MixtureLoader):
    """A loader whose batch number `POISONED` has a NaN in its third row."""

    def batches(self, state, proportions, steps, rows=None):
        for batch, after in super().batches(state, proportions, steps, rows):
            if after.drawn.sum() == POISONED * self.batch_size:
                batch.mask[2, 3] = np.nan
            yield batch, after


@pytest.fixture(scope="module")
def poisoned(bench):
    return Poisoned(bench.groups.train, bench.config.batch_size, bench.config.seed)


def test_a_nan_stops_the_run_and_names_step_groups_and_windows(bench, poisoned, tmp_path):
    with pytest.raises(NonFiniteLoss) as stopped:
        play(bench, MIXERS["stratified"], tmp_path, loader=poisoned)
    batches = [row["batch"] for row in rows(tmp_path) if "batch" in row]
    assert len(batches) == POISONED - 1  # all that came before is logged
    message = str(stopped.value)
    assert message.startswith(f"step {POISONED}: loss nan, gradient norm nan, groups with a non-")
    # Rows alternate between the groups, so the third one is of the first group.
    assert "non-finite loss: plain; batch plain:" in message
    assert message.count("plain:") == message.count("other:") == 2
    assert "replay it with: python -m train tiny --resume" in message

    # The state before the step is saved: the run goes on into just the same error.
    loop = replace(bench.config.loop, checkpoint_every=0)
    with pytest.raises(NonFiniteLoss) as again:
        play(bench, MIXERS["stratified"], tmp_path, loop, loader=poisoned)
    assert str(again.value) == message


def test_a_stop_leaves_the_state_before_it_whole(bench, poisoned, tmp_path):
    """Neither save of step 6, by schedule and because of the NaN in step 7, harms the other."""
    loop = replace(bench.config.loop, checkpoint_every=3)
    for _ in range(2):
        run = Run(tmp_path)
        job = replace(bench.job, mixer=MIXERS["aioli"], loader=poisoned)
        state = init_loop_state(bench.fresh(), poisoned, job.mixer, bench.config.seed)
        checkpointer = run.checkpointer(keep=9)
        with pytest.raises(NonFiniteLoss):
            train_loop(loop, job, state, run, checkpointer)
        assert run.failures == []
    step, saved = Run(tmp_path).checkpointer(keep=9).restore(state)
    assert step == POISONED - 1
    assert int(saved.train.step) == POISONED - 1
    # With a clean loader the run ends as one that never met the NaN.
    end = play(bench, MIXERS["aioli"], tmp_path, loop)
    assert_same_bits(end, play(bench, MIXERS["aioli"], tmp_path / "clean", loop))


def test_the_first_step_can_be_the_bad_one(bench, tmp_path):
    def step(state, batch):
        return bench.job.step(state, batch._replace(mask=batch.mask * np.nan))

    messages = []
    for _ in range(2):
        with pytest.raises(NonFiniteLoss, match=r"^step 1: .*: plain, other; batch") as stopped:
            play(bench, MIXERS["aioli"], tmp_path, step=step)
        messages.append(str(stopped.value))
    assert messages[0] == messages[1]
    assert [row["step"] for row in rows(tmp_path) if "plan" in row] == [0, 0]


def test_a_bad_step_can_be_skipped_and_is_counted(bench, poisoned, tmp_path):
    loop = replace(bench.config.loop, nonfinite="skip", checkpoint_every=6)
    end = play(bench, MIXERS["stratified"], tmp_path, loop, loader=poisoned)
    assert int(end.skipped) == 1
    assert int(end.train.step) == loop.steps
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(end.train.params))
    lines = {row["step"]: row for row in rows(tmp_path) if "loss" in row}
    assert [lines[step]["skipped"] for step in (6, 7, 8, 13)] == [0, 1, 1, 1]
    assert lines[7]["loss"] is None
    assert lines[7]["loss/plain"] is None
    assert lines[7]["loss/other"] is not None
    # The schedule stands still in a skipped step: step 8 is the 7th update, whose number is 6.
    assert lines[8]["learning_rate"] == float(bench.job.learning_rate(6))

    # A run killed after the skipped step has the count, too.
    loop = replace(loop, checkpoint_every=4)
    play(bench, MIXERS["stratified"], tmp_path / "whole", loop, loader=poisoned)
    folder = killed(tmp_path / "whole", 8, tmp_path / "killed")
    assert_same_bits(play(bench, MIXERS["stratified"], folder, loop, loader=poisoned), end)


def test_bad_steps_are_logged_whenever_they_come(bench, poisoned, tmp_path):
    loop = replace(bench.config.loop, nonfinite="skip", log_every=5, checkpoint_every=0)
    play(bench, MIXERS["stratified"], tmp_path, loop, loader=poisoned)
    assert [row["step"] for row in rows(tmp_path) if "loss" in row] == [5, 7, 10, 13]


def test_a_mixing_method_never_learns_from_a_nan(bench, tmp_path):
    def spoiled(train):
        return bench.job.evaluate(train)._replace(loss=np.array([1.0, np.nan]))

    with pytest.raises(NonFiniteLoss, match="step 0: the validation loss of other is not finite"):
        play(bench, MIXERS["aioli"], tmp_path, evaluate=spoiled)


def test_a_mixing_method_that_never_trains_is_refused(bench, tmp_path):
    idle = MIXERS["stratified"]
    empty = idle._replace(plan=lambda state: idle.plan(state)._replace(steps=jax.numpy.int32(0)))
    with pytest.raises(ValueError, match="the mixing method planned 101 times no step to train"):
        play(bench, empty, tmp_path)


def test_training_goes_on_when_checkpoints_fail(bench, tmp_path, monkeypatch):
    save = ocp.CheckpointManager.save

    def failing(self, step, *args, **kwargs):
        if step in (4, 8):
            raise OSError(28, "No space left on device")
        return save(self, step, *args, **kwargs)

    monkeypatch.setattr(ocp.CheckpointManager, "save", failing)
    run, loop = Run(tmp_path), replace(bench.config.loop, checkpoint_every=2)
    job = replace(bench.job, mixer=MIXERS["stratified"])
    state = init_loop_state(bench.fresh(), job.loader, job.mixer, bench.config.seed)
    with pytest.warns(UserWarning, match=r"step 4 could not .*No space .*; training goes on") as w:
        end = train_loop(loop, job, state, run, run.checkpointer(keep=99))
    assert len(w) == 1  # told once; all of them at the end
    assert [failure.split(" could")[0] for failure in run.failures] == [
        "checkpoint of step 4",
        "checkpoint of step 8",
    ]
    assert int(end.train.step) == loop.steps
    kept = {int(p.stem) for p in (tmp_path / "checkpoints/manifests").iterdir()}
    assert kept == {2, 6, 10, 12, 13}


class Told(NamedTuple):
    """Three plans: 2 steps, measured; 3 steps, not measured; the rest."""

    number: np.ndarray


def test_the_mixer_is_told_what_came_of_its_plan(bench, tmp_path):
    """Counts, losses and the learning rate of two plans, against the logged lines."""
    seen = []
    lengths, weights = np.array([2, 3, 99]), np.array([[2.0, 0.0], [1.0, 1.0], [1.0, 1.0]])

    def plan(state):
        shares = jax.numpy.array([[0.25, 0.75], [1.0, 0.0], [0.5, 0.5]])[state.number]
        planned = make_plan(shares, jax.numpy.asarray(lengths)[state.number], state.number == 0)
        return planned._replace(loss_weights=jax.numpy.asarray(weights)[state.number])

    def update(state, observation):
        jax.debug.callback(lambda o: seen.append(jax.tree.map(np.asarray, o)), observation)
        return Told(state.number + 1), {}

    mixer = Mixer(
        init=lambda key, m: Told(np.zeros((), np.int32)),
        plan=plan,
        update=update,
        result=lambda state: plan(state).proportions,
        needs=frozenset({"eval_loss", "train_loss"}),
    )
    loop = LoopConfig(steps=7, log_every=1, eval_every=0, checkpoint_every=0)
    play(bench, mixer, tmp_path, loop)
    jax.effects_barrier()
    first, second = seen
    lines = {row["step"]: row for row in rows(tmp_path) if "loss" in row}
    assert [int(first.step), int(second.step)] == [2, 5]
    np.testing.assert_array_equal(first.counts, [2, 6])  # 8 windows at 1/4 and 3/4
    np.testing.assert_array_equal(second.counts, [12, 0])
    (evaluation,) = (row for row in rows(tmp_path) if "eval/loss" in row)
    assert evaluation["step"] == 2
    logged = [evaluation["eval/loss/plain"], evaluation["eval/loss/other"]]
    np.testing.assert_array_equal(first.eval_loss, logged)
    assert first.eval_loss.dtype == np.float64
    assert np.isnan(second.eval_loss).all()
    plain = [lines[step]["loss/plain"] for step in (3, 4, 5)]
    assert second.train_loss[0] == pytest.approx(np.mean(plain), rel=1e-12)  # float64 sums
    assert np.isnan(second.train_loss[1])  # not drawn
    assert float(first.learning_rate) == pytest.approx(float(bench.job.learning_rate(2)))
    # The first plan's weights leave out the second group, and each batch has one row of the first:
    # the loss is the row's. rel=1e-6: float32, in another order.
    assert lines[2]["loss"] == pytest.approx(lines[2]["loss/plain"], rel=1e-6)
    assert abs(lines[2]["loss"] - lines[2]["loss/other"]) > 1e-3


def test_a_run_is_measured_by_schedule_and_its_best_checkpoint_is_known(bench, tmp_path):
    loop = LoopConfig(steps=10, log_every=2, eval_every=4, checkpoint_every=2, keep=9)
    play(bench, MIXERS["stratified"], tmp_path, loop)
    lines = rows(tmp_path)
    measured = {row["step"]: row["eval/loss"] for row in lines if "eval/loss" in row}
    assert list(measured) == [4, 8]
    manifests = tmp_path / "checkpoints/manifests"
    metrics = {int(p.stem): json.loads(p.read_text())["metrics"] for p in manifests.iterdir()}
    assert metrics == {2: {}, 4: {"loss": measured[4]}, 6: {}, 8: {"loss": measured[8]}, 10: {}}
    assert [row["step"] for row in lines if "loss" in row] == [2, 4, 6, 8, 10]


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("steps", 0, ">= 1"),
        ("log_every", 0, ">= 1"),
        ("eval_every", -1, ">= 0"),
        ("checkpoint_every", -1, ">= 0"),
        ("keep", 1, ">= 2"),
        ("nonfinite", "ignore", "stop or skip"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(field, value, allowed):
    with pytest.raises(ValueError, match=rf"^loop\.{field} must be {allowed}; got {value!r}$"):
        LoopConfig(**{field: value})
