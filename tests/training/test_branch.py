"""Runs side by side are the runs that the ordinary step makes, each for itself."""

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jlab.mixing import static
from jlab.training import (
    LanguageModelConfig,
    Run,
    Trained,
    put_batch,
    stacked,
    train_language_model,
)
from jlab.training.branch import branch, sweep
from jlab.training.language_step import compiled_step
from jlab.training.stacked import fitting_runs, over_runs, put_batches, run_bytes
from jlab.training.start import Start, fresh_start, restore_start
from tests.mixing.worlds import jit_in_haste
from tests.training.runs import assert_same_bits

# The program of several runs is fused otherwise than that of one, so that the last bits of float32
# differ and grow over a few steps of a rate of 1e-2.
ROUNDING = 2e-5
MIXTURES = np.array([[0.5, 0.5], [0.9, 0.1], [0.0, 1.0]])
STEPS = 5


def step_of(bench):
    """The ordinary step, compiled once for this file."""
    return compiled_step(bench.config, bench.groups, bench.job.mesh, None, None)


def ordinary(bench, start: Start, mixture, steps: int):
    """State, loader state and validation losses (after each step) of one run for itself."""
    state, data, losses = jax.tree.map(jnp.array, start.train), start.data, []
    for batch, after in start.loader().batches(start.data, mixture, steps):
        state, _ = step_of(bench)(state, put_batch(batch, bench.job.mesh))
        losses.append(bench.job.evaluate(state).loss)
        data = after
    return state, data, np.array(losses)


@pytest.fixture(scope="module")
def start(bench) -> Start:
    """Three steps into a run on another mixture: moments, schedule and loader have moved."""
    fresh = fresh_start(bench.config, bench.groups)
    state, data, _ = ordinary(bench, fresh, [0.3, 0.7], 3)
    return fresh._replace(train=state, data=data)


@pytest.fixture(scope="module")
def branches(start):
    """Two of them in one program and the third in another, evaluated every two steps."""
    return branch(start, MIXTURES, STEPS, eval_every=2, runs_at_once=2)


@pytest.fixture(scope="module")
def alone(bench, start):
    """The same branches, one for itself at a time."""
    return [ordinary(bench, start, mixture, STEPS) for mixture in MIXTURES]


def test_each_branch_is_the_run_that_the_ordinary_step_makes(bench, start, branches, alone):
    assert branches.steps.tolist() == [0, 2, 4, 5]
    before = bench.job.evaluate(start.train).loss
    np.testing.assert_array_equal(branches.before, np.stack([before] * 3))
    for run, (_, data, losses) in enumerate(alone):
        np.testing.assert_allclose(branches.losses[1:, run], losses[[1, 3, 4]], atol=ROUNDING)
        np.testing.assert_array_equal(branches.counts[run], data.drawn - start.data.drawn)
    assert branches.counts[2].tolist() == [0, STEPS * bench.config.batch_size]
    assert branches.losses.dtype == np.float64
    assert branches.finite.all()
    assert branches.test is None
    # Mixtures make a difference that no rounding explains.
    assert np.abs(branches.after[1] - branches.after[2]).min() > 100 * ROUNDING


def test_programs_of_any_size_give_the_same_and_each_is_told(start, branches):
    told = []
    apart = branch(start, MIXTURES, STEPS, eval_every=2, runs_at_once=1, tell=told.append)
    assert told == ["1 of 3 runs done", "2 of 3 runs done", "3 of 3 runs done"]
    np.testing.assert_allclose(apart.losses, branches.losses, atol=ROUNDING)
    np.testing.assert_array_equal(apart.counts, branches.counts)


def test_the_same_branches_have_the_same_bits_and_leave_their_start_alone(start, branches):
    again = branch(start, MIXTURES, STEPS, eval_every=2, runs_at_once=2)
    assert_same_bits(again, branches)


def test_as_one_batch_the_runs_are_the_same_as_in_turns(bench, start):
    """What accelerators run."""
    loader = start.loader()
    batches = [next(loader.batches(start.data, p, 1))[0] for p in MIXTURES[:2]]
    states = jax.tree.map(lambda x: jnp.stack([x, x]), start.train)
    step = jit_in_haste(over_runs(step_of(bench), "gpu"))
    together, metrics = step(states, put_batches(batches, bench.job.mesh))
    for run, batch in enumerate(batches):
        own = jax.tree.map(jnp.array, start.train)
        own, expected = step_of(bench)(own, put_batch(batch, bench.job.mesh))
        for name in ("loss", "grad_norm", "finite"):
            np.testing.assert_allclose(metrics[name][run], expected[name], rtol=1e-5)
        for got, want in zip(*map(jax.tree.leaves, (together.params, own.params)), strict=True):
            # A step of Adam is the rate times m / sqrt(v): where both are near zero it magnifies.
            np.testing.assert_allclose(
                got[run], want, atol=1e-3 * bench.config.optimizer.learning_rate
            )


def test_loss_weights_of_the_start_are_not_those_of_a_branch(start, branches):
    """They belong to the plan that the run was in."""
    weighted = start.train._replace(extras={"loss_weights": jnp.array([0.0, 5.0])})
    other = start._replace(train=weighted)
    again = branch(other, MIXTURES, STEPS, eval_every=2, runs_at_once=2)
    assert_same_bits(again, branches)


def test_a_run_that_is_not_finite_is_named_and_touches_no_other(start, branches):
    broken = jax.tree.map(lambda x: x * jnp.nan, start.train.params)
    starts = [start, start._replace(train=start.train._replace(params=broken)), start]
    told = []
    mixed = branch(starts, MIXTURES, STEPS, eval_every=2, runs_at_once=2, tell=told.append)
    assert told[0] == "run 1 (0.9, 0.1): 5 steps were not finite and were left out"
    assert mixed.skipped.tolist() == [0, STEPS, 0]
    assert mixed.finite.tolist() == [True, False, True]
    assert np.isnan(mixed.losses[:, 1]).all()
    np.testing.assert_array_equal(mixed.losses[:, [0, 2]], branches.losses[:, [0, 2]])


class Finished(NamedTuple):
    folder: Path
    config: LanguageModelConfig
    model: Trained


@pytest.fixture(scope="module")
def finished(bench, tmp_path_factory) -> Finished:
    """A run of 13 steps with seed 1 on a static mixture, with all its checkpoints."""
    folder, config = tmp_path_factory.mktemp("run"), replace(bench.config, seed=1)
    model = train_language_model(config, static(MIXTURES[1]), Run(folder), bench.groups)
    return Finished(folder, config, model)


def test_a_sweep_is_whole_runs_from_seeds_of_their_own(bench, finished):
    """The run of the other seed is the one that `train_language_model` makes."""
    swept = sweep(bench.config, bench.groups, MIXTURES[:2], seeds=[0, 1], eval_every=10)
    assert swept.steps.tolist() == [0, 10, 13]
    for split, losses in (("validation", swept.after), ("test", swept.test)):
        expected = finished.model.evaluate(split, bench.config.eval_windows).loss
        np.testing.assert_allclose(losses[1], expected, atol=10 * ROUNDING)  # 13 steps
    assert np.abs(swept.before[0] - swept.before[1]).min() > 1e-3  # other parameters
    np.testing.assert_array_equal(swept.counts.sum(1), 13 * bench.config.batch_size)


def test_a_branch_of_a_checkpoint_on_its_own_mixture_is_the_run_gone_on(bench, finished):
    start, end = restore_start(finished.folder, 8), restore_start(finished.folder)
    assert (int(start.train.step), int(end.train.step)) == (8, 13)
    assert start.config == replace(finished.config, mesh=start.config.mesh)
    assert_same_bits(end.train.params, finished.model.params)
    gone_on = branch(start, MIXTURES[[1, 0]], 5)
    expected = bench.job.evaluate(end.train).loss
    np.testing.assert_allclose(gone_on.after[0], expected, atol=ROUNDING)
    np.testing.assert_array_equal(gone_on.counts[0], end.data.drawn - start.data.drawn)


def test_a_checkpoint_that_is_not_there_or_damaged_is_refused(finished, tmp_path):
    folder = finished.folder
    with pytest.raises(FileNotFoundError, match=r"has no checkpoint of step 14; it has \[1, 2, 3,"):
        restore_start(folder, 14)
    manifest = folder / "checkpoints" / "manifests" / "7.json"
    manifest.rename(tmp_path / "7.json")
    with pytest.raises(FileNotFoundError, match=r"checkpoints/7 is damaged: no manifest"):
        restore_start(folder, 7)
    with pytest.raises(FileNotFoundError, match="is not the folder of a trained model"):
        restore_start(tmp_path, 7)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"proportions": [0.5, 0.5]},
            r"proportions must be one row per run, \[n, m\]; got .* \(2,\)",
        ),
        ({"proportions": np.zeros((0, 2))}, r"proportions must be one row per run.*\(0, 2\)"),
        ({"proportions": [[0.5, 0.5], [0.5, 0.6]]}, r"mixture 1: proportions must be >= 0 and sum"),
        ({"proportions": [[1.0]]}, r"mixture 0: proportions must be one number for each of 2"),
        ({"steps": 0}, r"steps must be >= 1; got 0"),
        ({"eval_every": -1}, r"eval_every must be >= 0; got -1"),
        ({"runs_at_once": 0}, r"runs_at_once must be >= 1; got 0"),
    ],
)
def test_bad_input_is_refused_before_anything_is_trained(start, change, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        branch(start, **{"proportions": MIXTURES, "steps": STEPS, **change})


def test_starts_must_fit_the_mixtures_and_one_another(start):
    with pytest.raises(ValueError, match=r"^start must be one, or one per mixture \(3\); got 2$"):
        branch([start, start], MIXTURES, STEPS)
    other = start._replace(config=replace(start.config, z_loss=0.1))
    with pytest.raises(ValueError, match=r"^start 1 has another config than start 0"):
        branch([start, other, start], MIXTURES, STEPS)


def test_as_many_runs_go_at_once_as_half_of_the_memory_holds(bench, monkeypatch):
    one = run_bytes(bench.config, 2)
    wide = replace(bench.config, batch_size=8)
    assert run_bytes(wide, 2) > one
    assert run_bytes(replace(wide, accumulate=2), 2) == one
    for memory, runs in ((7 * one, 3), (one // 2, 1)):
        monkeypatch.setattr(stacked, "_memory", lambda memory=memory: memory)
        assert fitting_runs(bench.config, 2) == runs


def test_a_compiled_step_takes_no_more_memory_than_estimated(bench):
    batch = next(bench.job.loader.batches(bench.job.loader.init(), [0.5, 0.5], 1))[0]
    compiled = step_of(bench).lower(bench.fresh(), put_batch(batch, bench.job.mesh)).compile()
    memory = compiled.memory_analysis()
    taken = memory.argument_size_in_bytes + memory.temp_size_in_bytes
    assert taken <= run_bytes(bench.config, 2) <= 4 * taken
