"""The sweep end to end on two tiny groups, broken off and resumed; what it says and refuses."""

import json
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from jlab.data import DataConfig
from jlab.nn import llama
from jlab.training import Interrupted, LoopConfig, OptimConfig, Run, stop_on_signal
from train.mixing_sweep import Config, prepare, report, run, runs_per_seed
from train.sweep_units import break_steps, cover

WORDS = {"plain": "alpha beta gamma delta", "other": "iota kappa lambda mu"}


@pytest.fixture(scope="module", autouse=True)
def in_haste():
    """Every program here runs a few times: compiling takes longer than running."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Config:
    """Two groups of 200 documents of about 24 bytes, a run of 8 steps with one break."""
    folder = tmp_path_factory.mktemp("text")
    for name, words in WORDS.items():
        words = words.split()
        texts = (f"{name} {n}: {words[n % 4]} {words[n // 4 % 4]}" for n in range(200))
        lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
        (folder / f"{name}.jsonl").write_text(lines)
    return Config(
        data=DataConfig(
            groups=tuple(f"{name}={folder / name}.jsonl" for name in WORDS),
            tokenizer="bytes",
            length=16,
            validation_fraction=0.1,
            test_fraction=0.1,
            cache_dir=str(folder / "cache"),
        ),
        model=llama(d_model=16, layers=1, heads=2, d_ff=48, tied=True, vocab_size=257),
        optimizer=OptimConfig(learning_rate=1e-2, end_learning_rate=1e-3),
        loop=LoopConfig(steps=8, log_every=4, eval_every=4),
        batch_size=4,
        eval_windows=6,
        breaks=1,
        branch_steps=3,
        mixtures=5,
        sweeps=1,
        probe_steps=2,
        observed_batches=2,
        one_hot_factor=0.75,
        refits=20,
    )


@pytest.fixture(scope="module")
def groups(config):
    return prepare(config, lambda text, size: None)


@pytest.fixture(scope="module")
def whole(config, groups, tmp_path_factory) -> tuple[Path, dict]:
    folder = tmp_path_factory.mktemp("whole")
    result = run(config, groups, Run(folder), "resume")
    Run(folder).write_result(result)
    return folder, result


def test_a_seed_holds_every_checkpoint_with_every_matrix(config, whole):
    _, found = whole
    assert [there["step"] for there in found["breaks"]] == break_steps(config) == [4]
    assert np.shape(found["static"]["after"]) == (5, 2)
    for there in found["breaks"]:
        assert np.shape(there["after"]) == (5, 2)
        assert {"fitted", "aioli", "skillit", "doremi", "doge", "odm"} < there["matrices"].keys()
        low, matrix, high = (
            np.array(x) for x in (there["low"], there["matrices"]["fitted"], there["high"])
        )
        assert (low <= matrix).all()
        assert (matrix <= high).all()
    assert json.loads(json.dumps(found, allow_nan=False)) is not None
    # Branches start where the path was: the evaluation of the loop, on the restored parameters.
    curve = {step: np.array(losses) for step, losses in found["path"]["curve"]}
    np.testing.assert_allclose(found["breaks"][0]["before"], curve[4], rtol=1e-6)


def test_a_resumed_run_repeats_only_what_is_unfinished(config, groups, whole, tmp_path, capsys):
    folder, found = whole
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    (broken / "result.json").unlink()
    (broken / "break-4" / "probes" / "result.json").unlink()
    again = run(config, groups, Run(broken, "sweep"), "resume")
    assert capsys.readouterr().err.splitlines() == ["sweep break-4/probes"]
    assert again == found


def test_a_signal_stops_it_before_the_next_unit(config, groups, whole, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(whole[0], broken)
    shutil.rmtree(broken / "static")
    with stop_on_signal():
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Interrupted, match=r"^stopped before static/runs-0-4$"):
            run(config, groups, Run(broken), "resume")
    (broken / "result.json").unlink()
    text = report(config, {0: Run(broken)}, Run(broken))
    assert text.startswith("Stopped before the end of the first seed")
    assert (broken / "plots" / "matrices.png").exists()
    (broken / "so_far.json").unlink()
    shutil.rmtree(broken / "plots")
    text = report(config, {0: Run(broken)}, Run(broken))
    assert text.startswith("Stopped before the end of the path")
    assert (broken / "plots" / "loss_by_group.png").exists()
    assert report(config, {0: Run(tmp_path / "none")}, Run(broken)) == "Nothing was trained.\n"


def test_the_report_has_both_tables_and_every_plot(config, whole, tmp_path):
    folder, found = whole
    other = json.loads(json.dumps(found))
    other["breaks"][0]["match"]["aioli"]["similarity"] -= 0.5  # a second seed that differs
    Run(tmp_path / "seed-1").write_result(other)
    parts = {0: Run(folder), 1: Run(tmp_path / "seed-1")}
    text = report(config, parts, Run(tmp_path))
    plots = {path.stem for path in (tmp_path / "plots").iterdir()}
    assert plots == {
        "loss_by_group",
        "fidelity",
        "matrices",
        "benefits",
        "similarity",
        "proportions",
    }
    for says in ("| log-linear static", "| linear dynamic", "| Aioli ", "| A* refitted", "step 4"):
        assert says in text
    assert "95 % t-interval over 2 seeds: Aioli" in text
    assert "nan" not in text
    one = report(config, {0: Run(folder)}, Run(tmp_path))
    assert "One seed: the methods' similarities have no interval." in one


def test_the_cost_counts_every_step(config, groups):
    """1 + 2 + 5 full runs; per break 5 x 3 steps of branches, 2 x 1 x 2 of probes, 2 x 2 seen."""
    assert runs_per_seed(config, groups) == 1 + 2 + 5 + (15 + 4 + 4) / 8


def test_the_cover_lies_on_the_simplex_and_is_the_same_for_all_seeds(config):
    p = cover(config, 2)
    np.testing.assert_allclose(p.sum(1), 1, atol=1e-15)
    np.testing.assert_array_equal(p, cover(replace(config, seed=3), 2))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"breaks": 0}, r"breaks must be >= 1; got 0"),
        ({"breaks": 2}, r"breaks must split loop.steps = 8 into equal parts.*; got 2"),
        ({"branch_steps": 5}, r"branch_steps must be at most 4, what is left of 8 steps.*; got 5"),
        ({"refits": 0}, r"refits must be >= 1; got 0"),
        ({"solver_rate": -1.0}, r"solver_rate must be positive and finite; got -1.0"),
        ({"cover_alpha": float("nan")}, r"cover_alpha must be positive and finite; got nan"),
        ({"accumulate": 2}, r"accumulate must be 1, for the gradients that DoGE sees; got 2"),
    ],
)
def test_a_config_that_cannot_be_is_refused_by_name(config, change, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        replace(config, **change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mixtures": 3}, r"mixtures must be at least 4: .* 2 groups has 3 parameters.*; got 3"),
        ({"sweeps": 2}, r"sweeps x probe_steps must be at most 2, .* got 2 x 2"),
        ({"one_hot_factor": 0.5}, r"one_hot_factor must be in \(1/2, 1\] with 2 groups; got 0.5"),
        (
            {"batch_size": 1, "observed_batches": 1},
            r"observed_batches must hold a window of each of 2 groups; got 1 of 1 windows",
        ),
    ],
)
def test_what_does_not_fit_the_groups_is_refused_by_name(config, groups, change, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        prepare(replace(config, **change), lambda text, size: None)


def test_one_group_is_nothing_to_mix(config):
    alone = replace(config, data=replace(config.data, groups=config.data.groups[:1]))
    with pytest.raises(ValueError, match=r"^data\.groups must name at least 2 groups to mix"):
        prepare(alone, lambda text, size: None)
