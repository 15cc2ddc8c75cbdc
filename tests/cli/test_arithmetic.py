"""`python -m train arithmetic` from end to end, killed in the middle, and its numbers in full.

Its unbroken run is shared by all tests; `evals coverage` is called on it in the same process.
"""

import json
import random
import re
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest

from evals.__main__ import main as evaluate
from tests.cli.commands import assert_one_line, rows, run, start
from tests.cli.test_kill import arrays, assert_same_arrays, steps_logged, stop, wait_until
from train.__main__ import main as train
from train.arithmetic_report import REFERENCE

ARMS = ("mixed", "equal")
PLOTS = {"loss_by_group.png", "coverage.png", "family.png", "control.png"}


def result(folder: Path) -> dict:
    return json.loads((folder / "result.json").read_text())


def test_a_run_leaves_all_that_is_promised(unbroken):
    folder, out, err = unbroken("arithmetic")
    assert {path.name for path in (folder / "plots").iterdir()} == PLOTS
    assert (folder / "summary.md").read_text() in out
    for arm in ARMS:
        assert list((folder / arm / "tensorboard").glob("events.*"))
        logged = [row["step"] for row in rows(folder / arm) if "batch" in row]
        assert logged == list(range(1, len(logged) + 1))
    found = result(folder)
    assert [state["step"] for state in found["states"]] == [12, 24]
    assert [len(row) for row in found["sampled"]["answers"]] == [20] * 8
    assert all(0 < p < 1 for state in found["states"] for p in state["p"])
    # It learns: the right answers of both states are likelier than at random, and more so later.
    first, last = (np.log(state["p"]).mean() for state in found["states"])
    assert np.log(1 / 257) * 4 < first < last
    lines = [line for line in err.splitlines() if "tokens/s" in line]
    training = r"arithmetic (mixed|equal) \d+/\d+  loss \d+\.\d+  [\d,]+ tokens/s"
    assert all(re.fullmatch(rf"{training}|sampling \d+/160 .*", line) for line in lines)


@pytest.mark.slow
def test_a_run_killed_in_training_and_in_sampling_comes_to_the_same_numbers(
    unbroken, tmp_path, cache
):
    whole, _, _ = unbroken("arithmetic")
    folder = tmp_path / "runs/arithmetic/001"
    process = start(tmp_path, cache, "train", "arithmetic", "--size", "tiny")
    moment = random.Random("arithmetic").randrange(8, 20)
    assert wait_until(process, lambda: steps_logged(folder / "mixed") >= moment)
    assert stop(process, signal.SIGKILL) == -signal.SIGKILL
    process = start(tmp_path, cache, "train", "arithmetic", "--resume")
    assert wait_until(process, lambda: stored(folder) > 0)
    assert stop(process, signal.SIGTERM) in (0, -signal.SIGTERM)
    code, out, err = run(tmp_path, cache, "train", "arithmetic", "--resume")
    assert code == 0, err
    assert out == (whole / "summary.md").read_text() + "\n"
    assert (folder / "result.json").read_bytes() == (whole / "result.json").read_bytes()
    assert stored(folder) == stored(whole) == 160, "no sample is lost and none is repeated"
    for arm in ARMS:
        assert rows(folder / arm) == rows(whole / arm)
        assert_same_arrays(arrays(folder / arm), arrays(whole / arm))


def stored(folder: Path) -> int:
    """Samples in the store of a run."""
    return sum(path.read_bytes().count(b"\n") for path in folder.glob("samples/*.jsonl"))


def test_a_dry_run_tells_the_cost_and_writes_nothing(call, tmp_path):
    code, out, _ = call(train, "arithmetic", "--size", "tiny", "--dry-run")
    assert code == 0
    cost = json.loads(out)["cost"]
    # 24 steps of 16 rows of 16 tokens, and 12 steps of 16 rows of 18.
    assert cost["tokens"] == 24 * 16 * 16 + 12 * 16 * 18
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--states", "12", "20"], "states must end with loop.steps = 24; got 20"),
        (["--states", "24", "12"], "states must be growing steps >= 1"),
        (["--sampled-problems", "33"], "sampled_problems must be at most problems = 32; got 33"),
        (["--temperature", "0"], "temperature must be positive and finite; got 0.0"),
        (["--model.vocab-size", "99"], "model.vocab_size must be 257, or None; got 99"),
        (["--data.length", "9"], "unknown flag --data.length"),
    ],
)
def test_bad_configs_are_refused_in_one_line(words, says, call, tmp_path):
    code, _, err = call(train, "arithmetic", "--size", "tiny", *words)
    assert code == 2
    assert_one_line(err, [says])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_its_states_are_evaluated_anew_and_more_samples_drawn(unbroken, call, tmp_path):
    whole, _, _ = unbroken("arithmetic")
    shutil.copytree(whole, tmp_path / "runs/arithmetic/001")
    code, out, err = call(evaluate, "coverage", "--n-samples", "30")
    assert code == 0, err
    assert "sampling 240/240" in err
    summary = json.loads(Path("runs/coverage/001/summary.json").read_text())
    assert summary["samples"] == {"least": 30, "most": 30, "all": 240}
    (states,) = summary["states"].values()
    for state in result(whole)["states"]:
        curve = states[f"step {state['step']}"]["curve"]
        # Parameters went through safetensors bit for bit; another batch shape, float32.
        assert curve["coverage"][0] == pytest.approx(np.mean(state["p"]), rel=1e-4)
    code, again, err = call(evaluate, "coverage", "runs/arithmetic/001", "--n-samples", "30")
    assert (code, again) == (0, out)
    assert "sampling" not in err, "nothing is drawn twice"
    code, _, err = call(evaluate, "coverage", "--step", "13")
    assert code == 2
    assert_one_line(err, ["step must be one of 12, 24"])


@pytest.mark.slow
def test_the_numbers_of_the_full_size(tmp_path, cache):
    """Of an independent implementation, with margins for another seed and other problems."""
    code, _, err = run(tmp_path, cache, "train", "arithmetic")
    assert code == 0, err
    folder = tmp_path / "runs/arithmetic/001"
    text, found = (folder / "summary.md").read_text(), result(folder)
    for state in found["states"]:
        p = np.array(state["p"])
        _, first, *coverage = REFERENCE[state["step"]][:6]
        # Measured: 1.47, 1.31, 0.78, 0.75 times the reference.
        assert 0.6 < p.mean() / first < 1.7
        for k, expected in zip((10, 100, 1000, 10_000), coverage, strict=True):
            # Measured: 0.17 at k = 10 and step 1200, 0.10 and less elsewhere.
            assert abs(1 - ((1 - p) ** k).mean() - expected) < 0.2
    slopes = [float(x) for x in re.findall(r"\| (-0\.\d+) \[", text)]
    assert len(slopes) == 4
    assert all(-0.58 < b < -0.38 for b in slopes)  # reference: -0.48 to -0.56
    z = float(re.search(r"square of (\d\.\d+) over", text)[1])
    assert 0.7 < z < 1.3  # 62 z-scores: 1 with a standard deviation of 0.09
    control = np.array(found["control"]["p"])
    assert "There is no log-linear law here" in text.partition("## Control")[2]
    assert 0.002 < control.mean() < 0.02  # reference: 0.008
