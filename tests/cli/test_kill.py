"""Killed anywhere and resumed, a run and an evaluation come to the numbers of unbroken ones.

The normal tests have one kill per preset, at a step or inside a checkpoint; the slow ones 20 per
preset, at moments drawn with a fixed seed over the whole life of the process. A look that sees its
moment late only makes the kill later, and every moment must do.
"""

import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest

from evals.__main__ import main as evaluate
from jlab.training.manifest import newest_whole
from tests.cli.commands import PRESETS, parts, rows, run, start

POLL = 0.005  # seconds between looks at the run folder
KILLS = 20  # per preset in the slow tests
# Seconds within which the moments of the slow tests fall: about those of a run on an idle core.
LIFE = {"lm": 5.0, "aioli": 12.0, "mixing_compare": 20.0, "mixing_sweep": 20.0}
STEPS = {
    "lm": 24,
    "aioli": 28,
    "mixing_compare": 12,
    "mixing_sweep": 24,
}  # of each part at the tiny size


# The normal kill of `lm` is the one in a checkpoint, below; `mixing_compare` trains its parts as
# `aioli` does.
@pytest.mark.parametrize(
    ("preset", "place"),
    [
        pytest.param("lm", 0, marks=pytest.mark.slow),
        ("aioli", -1),
        pytest.param("mixing_compare", -4, marks=pytest.mark.slow),
    ],
)
def test_a_run_killed_at_a_step_comes_to_the_same_numbers(preset, place, unbroken, tmp_path, cache):
    whole, _, _ = unbroken(preset)
    part = list(parts(preset, tmp_path / "runs" / preset / "001").values())[place]
    process = start(tmp_path, cache, "train", preset, "--size", "tiny")
    moment = random.Random(preset).randrange(STEPS[preset] // 3, STEPS[preset] - 3)
    assert wait_until(process, lambda: steps_logged(part) >= moment)
    assert stop(process, signal.SIGKILL) == -signal.SIGKILL
    assert steps_logged(part) < STEPS[preset]
    assert_resumes(preset, tmp_path, cache, whole)


def test_a_run_killed_in_a_checkpoint_goes_on_from_the_one_before(unbroken, tmp_path, cache):
    whole, _, _ = unbroken("lm")
    checkpoints = tmp_path / "runs" / "lm" / "001" / "checkpoints"
    process = start(tmp_path, cache, "train", "lm", "--size", "tiny")
    assert freeze_when(process, lambda: unfinished(checkpoints) and newest(checkpoints) is not None)
    before = newest(checkpoints)
    assert stop(process, signal.SIGKILL) == -signal.SIGKILL
    err = assert_resumes("lm", tmp_path, cache, whole)
    assert f"lm {before + 1}/{STEPS['lm']} " in err, "the first step after the last whole one"


@pytest.mark.slow
@pytest.mark.parametrize("kill", range(KILLS))
@pytest.mark.parametrize("preset", PRESETS)
def test_a_run_killed_at_any_moment_comes_to_the_same_numbers(
    preset, kill, unbroken, tmp_path, cache
):
    whole, _, _ = unbroken(preset)
    moment = random.Random(f"{preset} {kill}").uniform(0, LIFE[preset])
    process = start(tmp_path, cache, "train", preset, "--size", "tiny")
    begin = time.monotonic()
    wait_until(process, lambda: time.monotonic() - begin > moment)
    stop(process, signal.SIGKILL)
    if not (tmp_path / "runs" / preset / "001" / "config.json").exists():
        code, _, err = run(tmp_path, cache, "train", preset, "--resume")
        assert (code, err) == (2, f"error: --resume: there is no run in runs/{preset}\n")
        code, _, err = run(tmp_path, cache, "train", preset, "--size", "tiny")
        assert code == 0, err
    assert_resumes(preset, tmp_path, cache, whole)


@pytest.mark.parametrize(
    ("preset", "number", "resumes"),
    [
        ("lm", signal.SIGTERM, True),
        ("aioli", signal.SIGINT, False),
        # The same code resumes it; the normal run saves the time.
        pytest.param("aioli", signal.SIGTERM, True, marks=pytest.mark.slow),
    ],
)
def test_a_signal_saves_the_step_and_says_how_to_go_on(
    preset, number, resumes, unbroken, tmp_path, cache
):
    folder = tmp_path / "runs" / preset / "001"
    part = next(iter(parts(preset, folder).values()))
    process = start(tmp_path, cache, "train", preset, "--size", "tiny")
    assert freeze_when(process, lambda: steps_logged(part) >= 3)
    logged = steps_logged(part)
    process.send_signal(number)
    code, err = stop(process, signal.SIGCONT), (tmp_path / "err").read_text()
    assert code == 0, err
    saved = newest(part / "checkpoints")
    assert saved in (logged, logged + 1), "the step that was being done is the last"
    command = f"python -m train {preset} --resume runs/{preset}/001"
    assert f"stopped at step {saved}; resume with: {command}\n" in err
    assert {"proportions.png", "loss_by_group.png"} <= {p.name for p in folder.glob("plots/*")}
    assert "Stopped before the end" in (folder / "summary.md").read_text()
    if resumes:
        assert_resumes(preset, tmp_path, cache, unbroken(preset)[0], *command.split()[2:])


def test_a_signal_before_the_first_step_ends_the_run_too(tmp_path, cache):
    folder = tmp_path / "runs" / "lm" / "001"
    process = start(tmp_path, cache, "train", "lm", "--size", "tiny")
    assert wait_until(process, lambda: (folder / "model.json").exists())
    code, err = stop(process, signal.SIGTERM), (tmp_path / "err").read_text()
    assert code == 0, err
    assert "resume with: python -m train lm --resume runs/lm/001\n" in err
    assert "Traceback" not in err


def test_a_second_signal_quits_at_once(tmp_path, cache):
    part = tmp_path / "runs" / "lm" / "001"
    process = start(tmp_path, cache, "train", "lm", "--size", "tiny")
    assert freeze_when(process, lambda: steps_logged(part) >= 3)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    # Two at once come in either order; the later one ends the process.
    assert stop(process, signal.SIGCONT) in (128 + signal.SIGINT, 128 + signal.SIGTERM)
    assert not (part / "summary.md").exists()


def test_an_evaluation_killed_in_the_middle_repeats_no_window(
    unbroken, tmp_path, cache, call, monkeypatch
):
    whole, _, _ = unbroken("lm")
    words = ("perplexity", "run", "--limit", "250")
    for name in ("killed", "whole"):
        shutil.copytree(whole, tmp_path / name / "run")
    store = Path("run", "evals", "perplexity.jsonl")
    killed = tmp_path / "killed" / store
    process = start(tmp_path / "killed", cache, "evals", *words)
    moment = random.Random("evaluation").randrange(100, 700)
    assert wait_until(process, lambda: lines(killed) >= moment)
    assert stop(process, signal.SIGKILL) == -signal.SIGKILL
    kept = killed.read_bytes()
    assert kept.count(b"\n") < 1000
    code, table, err = run(tmp_path / "killed", cache, "evals", *words)
    assert code == 0, err
    assert killed.read_bytes().startswith(kept[: kept.rfind(b"\n") + 1])
    monkeypatch.chdir(tmp_path / "whole")
    assert call(evaluate, *words)[:2] == (0, table)
    # The whole evaluation wrote each of 4 groups x 250 windows once, in the same order.
    assert killed.read_bytes() == store.read_bytes()
    assert lines(store) == 1000
    assert call(evaluate, *words)[:2] == (0, table)
    assert lines(store) == 1000, "a second call computes nothing"


def wait_until(process: subprocess.Popen, there: Callable[[], bool]) -> bool:
    """Wait until `there()`; False if the process has ended before."""
    while not there():
        if process.poll() is not None:
            return False
        time.sleep(POLL)
    return True


def freeze_when(process: subprocess.Popen, there: Callable[[], bool]) -> bool:
    """Stop the clock of the process while `there()` holds; False if it has ended before."""
    while wait_until(process, there):
        process.send_signal(signal.SIGSTOP)
        if there():
            return True
        process.send_signal(signal.SIGCONT)
    return False


def stop(process: subprocess.Popen, number: int) -> int:
    """Send a signal; the exit code."""
    if process.poll() is None:
        process.send_signal(number)
    return process.wait()


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def steps_logged(part: Path) -> int:
    path = part / "metrics.jsonl"
    return path.read_bytes().count(b'"batch"') if path.exists() else 0


def newest(checkpoints: Path) -> int | None:
    """Step of the newest checkpoint that has its manifest."""
    found = [int(path.stem) for path in (checkpoints / "manifests").glob("*.json")]
    return max(found, default=None)


def unfinished(checkpoints: Path) -> bool:
    """Whether a checkpoint is being written, or waits for its manifest."""
    if not checkpoints.exists():
        return False
    names = {path.name for path in checkpoints.iterdir()} - {"manifests", "damaged"}
    return any(not (checkpoints / "manifests" / f"{name}.json").exists() for name in names)


def assert_resumes(preset: str, cwd: Path, cache: Path, whole: Path, *words: str) -> str:
    """Resume the newest run below `cwd`; it must come to what `whole` did. Returns its stderr."""
    code, out, err = run(cwd, cache, *(words or ("train", preset, "--resume")))
    assert code == 0, err
    folder = max((cwd / "runs" / preset).iterdir())
    assert (folder / "summary.md").read_text() == (whole / "summary.md").read_text()
    assert out == (whole / "summary.md").read_text() + "\n"
    for part, expected in parts(preset, whole).items():
        found = folder / part
        assert rows(found) == rows(expected)
        assert_every_step_and_window_once(rows(found), STEPS[preset])
        assert (found / "result.json").read_bytes() == (expected / "result.json").read_bytes()
        assert_same_arrays(arrays(found), arrays(expected))
    return err


def assert_every_step_and_window_once(found: list[dict], steps: int) -> None:
    trained = [row for row in found if "batch" in row]
    assert [row["step"] for row in trained] == list(range(1, steps + 1))
    # Less than one pass over each group, so no window may come twice.
    assert all(value < 1 for name, value in trained[-1].items() if name.startswith("epochs/"))
    drawn = [pair for row in trained for pair in zip(*row["batch"].values(), strict=True)]
    assert len(set(drawn)) == len(drawn)


def arrays(part: Path) -> dict[str, np.ndarray]:
    """Everything in the newest checkpoint, by name."""
    import orbax.checkpoint as ocp

    step, _ = newest_whole(part / "checkpoints")
    path = part / "checkpoints" / str(step) / "default"
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        saved = reader.metadata(path).item_metadata.tree
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), saved)
        state = reader.restore(path, args=ocp.args.PyTreeRestore(restore_args=as_numpy))
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def assert_same_arrays(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    assert any("params" in name for name in found)
    assert [name for name in found if found[name].tobytes() != expected[name].tobytes()] == []
