"""`python -m train precision` and `precision_sweep` from end to end, killed, and refused."""

import json
import random
import signal
from pathlib import Path

import numpy as np
import pytest
from pyarrow import parquet

from jlab.precision import read_table
from tests.cli.commands import assert_one_line, rows, run, start
from tests.cli.test_kill import arrays, assert_same_arrays, steps_logged, stop, wait_until
from train.__main__ import main as train


def result(folder: Path) -> dict:
    return json.loads((folder / "result.json").read_text())


def results(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.glob("runs/*/*/*/result.json"))
    }


def test_one_run_leaves_all_that_is_promised(unbroken):
    folder, out, _ = unbroken("precision")
    assert {path.name for path in (folder / "plots").iterdir()} == {
        "loss_by_group.png",
        "quantised.png",
    }
    assert (folder / "summary.md").read_text() in out
    found = result(folder)
    assert [state["D"] for state in found["states"]] == [4 * 8 * 32, 8 * 8 * 32]
    for state in found["states"]:
        kinds = [(x["method"], x["format"]) for x in state["post"]]
        assert kinds == [("rtn", "int2"), ("rtn", "int4")]
        assert all(np.isfinite(x["loss"]) for x in state["post"])
    coarse, fine = (abs(x["loss"] - found["states"][1]["loss"]) for x in state["post"])
    assert coarse > fine


def test_a_run_killed_comes_to_the_same_numbers(unbroken, tmp_path, cache):
    whole, _, _ = unbroken("precision")
    folder = tmp_path / "runs/precision/001"
    process = start(tmp_path, cache, "train", "precision", "--size", "tiny")
    moment = random.Random("precision").randrange(2, 7)
    assert wait_until(process, lambda: steps_logged(folder) >= moment)
    assert stop(process, signal.SIGKILL) == -signal.SIGKILL
    code, out, err = run(tmp_path, cache, "train", "precision", "--resume")
    assert code == 0, err
    assert out == (whole / "summary.md").read_text() + "\n"
    assert rows(folder) == rows(whole)
    assert (folder / "result.json").read_bytes() == (whole / "result.json").read_bytes()
    assert_same_arrays(arrays(folder), arrays(whole))


@pytest.mark.slow
def test_low_precision_and_every_method(call):
    words = ["--model.precision.weights", "int6", "--model.precision.kv", "e4m3"]
    words += ["--post.methods", "rtn", "gptq", "awq", "--post.formats", "int3", "int6", "int8"]
    code, out, err = call(train, "precision", "--size", "tiny", "--halvings", "0", *words)
    assert code == 0, err
    assert "weights in int6, keys and values in e4m3" in out
    (state,) = result(Path("runs/precision/001"))["states"]
    # Those of no fewer bits than the weights have already change nothing.
    assert [(x["method"], x["format"]) for x in state["post"]] == [
        (method, "int3") for method in ("rtn", "gptq", "awq")
    ]
    assert len({x["loss"] for x in state["post"]} | {state["loss"]}) == 4


def test_a_sweep_leaves_a_table_that_the_law_reads(unbroken):
    folder, out, err = unbroken("precision_sweep")
    assert {path.name for path in (folder / "plots").iterdir()} == {
        "after_training.png",
        "in_training.png",
        "robust.png",
    }
    assert f"python -m evals precision_law {Path(*folder.parts[-3:])}/runs.parquet" in out
    table = read_table(folder / "runs.parquet")
    assert len(table.run) == 4 * 3, "four runs, each as trained and in two formats"
    assert not table.missing
    assert sorted(zip(table.D[table.trained], table.Pw[table.trained], strict=True)) == [
        (1024, 4),
        (1024, np.inf),
        (1024, np.inf),
        (2048, np.inf),
    ]
    assert set(table.Pkv) == {6, np.inf}
    assert "4/4 runs, 2 at a time" in err or "4/4 runs, 1 at a time" in err
    columns = parquet.read_table(folder / "runs.parquet").column_names
    assert {"format_weights", "format_post", "schedule"} <= set(columns)


@pytest.mark.slow
def test_a_sweep_killed_and_resumed_has_the_same_runs(unbroken, tmp_path, cache):
    """Its workers hear of its end; whoever resumes goes on where they were."""
    whole, _, _ = unbroken("precision_sweep")
    folder = tmp_path / "runs/precision_sweep/001"
    words = ("--size", "tiny", "--workers", "2")
    process = start(tmp_path, cache, "train", "precision_sweep", *words)
    assert wait_until(process, lambda: len(results(folder)) >= 1)
    assert stop(process, signal.SIGKILL) == -signal.SIGKILL
    code, out, err = run(tmp_path, cache, "train", "precision_sweep", "--resume")
    assert code == 0, err
    assert results(folder) == results(whole)
    assert out.splitlines()[:-2] == (whole / "summary.md").read_text().splitlines()[:-1]


def test_a_run_that_is_not_finite_is_a_row_without_a_loss(call):
    words = ["--optimizer.learning-rate", "1e30", "--optimizer.clip-norm", "0"]
    words += ["--optimizer.name", "sgd", "--tokens", "4096", "--combinations", "--workers", "1"]
    words += ["--low-tokens", "--weights"]
    code, out, err = call(train, "precision_sweep", "--size", "tiny", *words)
    assert code == 0, err
    assert "Nothing was trained to its end" in out
    (failed,) = result(Path("runs/precision_sweep/001"))["not_finite"]
    assert failed.endswith("4096/full-full-full")


def test_a_dry_run_tells_the_cost_and_writes_nothing(call, tmp_path):
    code, out, _ = call(train, "precision_sweep", "--size", "tiny", "--dry-run")
    assert code == 0
    cost = json.loads(out)["cost"]
    assert (cost["runs"], cost["tokens"]) == (4, 3 * 1024 + 2048)
    assert list(tmp_path.iterdir()) == []


ONE, GRID = "precision", "precision_sweep"
BAD = [
    (ONE, "--model.precision.weights int0", "precision.weights: bits must be", "2..16", "0"),
    (ONE, "--model.precision.kv fp5", "precision.kv: format must be intB", "'fp5'"),
    (ONE, "--post.formats int4 four", "post.formats: format must be intB", "'four'"),
    (ONE, "--post.formats int4 int4", "post.formats must be different ones"),
    (ONE, "--post.methods gptq --post.formats e2m1", "must be integers for gptq", "e2m1"),
    (ONE, "--post.group-size 7", "post.group_size must divide model.d_model = 32; got 7"),
    (ONE, "--post.group-size 0", "post.group_size must be >= 1; got 0"),
    (ONE, "--halvings 5", "loop.steps must be a multiple of 2^halvings = 32; got 8"),
    (GRID, "--sizes 20x1", "sizes must have widths that are multiples of 16", "'20x1'"),
    (GRID, "--sizes big", "sizes must be WIDTHxLAYERS", "'big'"),
    (GRID, "--tokens 7 1024", "tokens must be at least 256", "7"),
    (GRID, "--weights int1", "weights: bits must be", "got 1"),
    (GRID, "--combinations int4/int4", "combinations must be weights/activations/kv"),
    (GRID, "--combinations int4/x/-", "combinations: format must be intB", "'x'"),
    (GRID, "--post.formats int4 e2m1", "post.formats must have different bits", "int4 e2m1"),
    (GRID, "--weights int4 int4", "weights must be different ones; got int4 int4"),
    (GRID, "--weights int4 fp4", "weights must have different bits", "int4 fp4"),
    (GRID, "--low-tokens 512", "low_tokens must be among tokens; got 512"),
    (GRID, "--workers -1", "workers must be >= 0; got -1"),
    (GRID, "--ray auto", "ray cannot be used", "pip install 'jlab-research[scale]'"),
]


@pytest.mark.parametrize("case", BAD, ids=lambda case: f"{case[0]} {case[1]}")
def test_bad_configs_are_refused_in_one_line(case, call, tmp_path):
    preset, words, *says = case
    if "--ray" in words:
        pytest.importorskip("jlab.jobs.on_ray")
        try:
            import ray  # noqa: F401

            pytest.skip("ray is installed here")
        except ImportError:
            pass
    code, _, err = call(train, preset, "--size", "tiny", *words.split())
    assert code == 2
    assert_one_line(err, says)
    assert not (tmp_path / "runs").exists()
