"""`python -m evals linearized` on a made-up run, on named models, stopped, and on bad input."""

import json
import math
import shutil
import signal
import time
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import evals.linearized_measure
import evals.window_sums
from evals.__main__ import main as evaluate
from jlab.data import evaluation_batches, folder_tokenizer, load_groups, with_repeats
from jlab.data.groups import DataConfig
from jlab.hub import load_hf
from jlab.linearize import layer_report, linearize, without_linear, without_window
from jlab.nn import Transformer
from jlab.training.run import Run
from jlab.training.signals import Interrupted
from tests.cli.commands import assert_one_line, run, start
from tests.cli.linearized import GROUPS, LENGTH, MAPS, WINDOW, write_base, write_run
from tests.cli.sampled import rows_of

JOB = "linearized run --limit 10 --layer-windows 4 --batch 8 --samples 200"
TIMED = "--contexts 8 --rounds 1"
LABELS = ["base"] + [
    f"{kind} {stage}"
    for kind in ("hybrid_terrace", "linear")
    for stage in ("swapped", "transferred", "tuned")
]
WINDOWS = 30  # 10 of each of three groups
READ = 7 + 3 * 2  # models, and three hybrids with one branch less, two times


@pytest.fixture
def here(tmp_path):
    return write_run(tmp_path / "run").parent


@pytest.fixture(scope="module")
def finished(tmp_path_factory, cache):
    """A folder where the command has run in a process of its own; stdout and stderr."""
    folder = tmp_path_factory.mktemp("finished")
    write_run(folder / "run")
    code, out, err = run(folder, cache, "evals", *JOB.split(), *TIMED.split())
    assert code == 0, err
    return folder, out, err


def summary(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text())


def measured(folder: Path) -> list[dict]:
    return rows_of(folder / "measured")


def test_the_command_end_to_end(finished):
    here, out, err = finished
    folder = here / "runs/linearized/001"
    assert err.splitlines()[-1] == "results in runs/linearized/001"
    assert (folder / "summary.md").read_text() == out
    plots = {path.name: path.stat().st_size for path in (folder / "plots").iterdir()}
    assert set(plots) == {"perplexity.png", "layers.png", "decoding.png"}
    assert min(plots.values()) > 5000
    said = summary(folder)
    assert said["windows"] == dict.fromkeys((*GROUPS, "repeats"), 10)
    assert [row["label"] for row in said["models"] if row["branch"] == "both"] == LABELS
    assert len(said["models"]) == READ
    assert [row["label"] for row in said["window_alone"]] == LABELS[1:4]
    assert [(row["label"], row["layer"]) for row in said["layers"]] == [
        (label, layer) for label in LABELS if label[-5:] in ("apped", "erred") for layer in (0, 1)
    ]
    assert list(said["decoding"]) == ["base", "hybrid_terrace tuned", "linear tuned"]
    assert [row["context"] for row in said["decoding"]["base"]] == [8]
    record = json.loads((folder / "config.json").read_text())
    assert (record["evaluation"], record["config"]["limit"]) == ("linearized", 10)
    assert set(record) >= {"environment", "fingerprints"}
    kept = measured(here / "runs/linearized")
    assert sum("window" in row for row in kept) == READ * WINDOWS


def test_intervals_hold_their_points_and_are_not_empty(finished):
    said = summary(finished[0] / "runs/linearized/001")
    scores = [row[name] for row in said["models"] for name in ("text", "repeats")]
    scores += [score for row in said["models"] for score in row["groups"].values()]
    assert all(score["low"] < score["perplexity"] < score["high"] for score in scores)
    assert all(row["low"] < row["nats"] < row["high"] for row in said["window_alone"])


def models_of(folder: Path) -> dict:
    """Config and parameters by label, made and read without the evaluation."""
    base = load_hf(folder / "the-base")
    found = {"base": base}
    for kind, window in (("hybrid_terrace", WINDOW), ("linear", None)):
        found[f"{kind} swapped"] = linearize(*base, kind, window=window, feature_map=MAPS)
        for stage in ("transferred", "tuned"):
            found[f"{kind} {stage}"] = load_hf(folder / kind / "models" / stage)
    return found


def test_numbers_are_those_of_the_models_themselves(finished, cache, monkeypatch):
    """Every window by itself through `Transformer.apply`: no batches, no store."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.chdir(finished[0])
    folder = Path("run")
    record = json.loads((folder / "config.json").read_text())["config"]
    data = DataConfig(**record["data"] | {"groups": tuple(record["data"]["groups"])})
    groups = with_repeats(load_groups(data, None, folder_tokenizer(folder / "the-base")))
    (windows,) = evaluation_batches(groups.test, WINDOWS, 10)
    said, models = summary(Path("runs/linearized/001")), models_of(folder)
    branches = {"both": lambda c: c, "window": without_linear, "linear": without_window}
    for row in said["models"]:
        config, params = models[row["label"]]
        config = branches[row["branch"]](config)
        losses = jnp.stack(
            [window_loss(config, params, *each) for each in zip(*windows[:5], strict=True)]
        )
        means = [losses[windows.group == g].mean() for g in range(3)]
        found = [row[name]["perplexity"] for name in ("text", "repeats")]
        # Sums of float32 losses in another order.
        expected = np.exp([np.mean(means[:2]), means[2]])
        np.testing.assert_allclose(found, expected, rtol=2e-5, err_msg=row["label"])
    batches = [next(evaluation_batches([group], 4, 4)) for group in groups.test]
    for label in ("hybrid_terrace swapped", "linear transferred"):
        expected = layer_report(*models[label], batches)
        rows = [row for row in said["layers"] if row["label"] == label]
        for name in ("mse", "variance", "xent", "entropy", "reach"):
            np.testing.assert_allclose([row[name] for row in rows], expected[name], rtol=1e-5)
        relative = np.array(expected["mse"]) / expected["variance"]
        np.testing.assert_allclose([row["relative"] for row in rows], relative, rtol=1e-5)


@partial(jax.jit, static_argnums=0)
def window_loss(config, params, tokens, targets, mask, segment_ids, positions):
    places = {"positions": positions[None], "segment_ids": segment_ids[None]}
    logits = Transformer(config).apply({"params": params}, tokens[None], **places).logits[0]
    nats = -jnp.take_along_axis(jax.nn.log_softmax(logits), targets[:, None], axis=-1)[:, 0]
    return (nats * mask).sum() / mask.sum()


def test_a_second_call_computes_nothing(finished, call, monkeypatch):
    monkeypatch.chdir(finished[0])
    before = measured(Path("runs/linearized"))
    monkeypatch.setattr(evals.window_sums, "make_row_sums", lambda *_, **__: None)
    for name in ("layer_report", "measure_decoding"):
        monkeypatch.setattr(evals.linearized_measure, name, lambda *_, **__: None)
    code, out, err = call_in(finished[0], call, monkeypatch, *JOB.split(), *TIMED.split())
    assert (code, out) == (0, finished[1]), err
    assert measured(Path("runs/linearized")) == before
    assert err.splitlines()[-1] == "results in runs/linearized/002"


def call_in(folder: Path, call, monkeypatch, *words: str) -> tuple[int, str, str]:
    monkeypatch.chdir(folder)
    return call(evaluate, *words)


def test_a_stopped_call_goes_on_and_comes_to_the_same_numbers(here, call, monkeypatch):
    words = [*JOB.split(), "--contexts", "--out"]
    steps = []
    monkeypatch.setattr(evals.linearized_measure, "_go_on", lambda _stop, at: steps.append(at))
    code, whole, _ = call(evaluate, *words, "whole")
    assert code == 0
    in_all = list(steps)
    assert len(in_all) == READ * 4 + 4  # 30 windows in batches of 8; layers of four models
    steps.clear()

    def stopped(_stop, at):
        if len(steps) == 17:
            raise Interrupted(f"stopped at {at}")
        steps.append(at)

    monkeypatch.setattr(evals.linearized_measure, "_go_on", stopped)
    code, out, err = call(evaluate, *words, "part")
    assert (code, out) == (0, "")
    assert err.splitlines()[-1] == (
        f"stopped at {in_all[17]}; go on with: python -m evals {' '.join(words)} part"
    )
    assert not Path("part/config.json").exists()
    monkeypatch.setattr(evals.linearized_measure, "_go_on", lambda _stop, at: steps.append(at))
    code, out, _ = call(evaluate, *words, "part")
    assert (code, out) == (0, whole)
    assert steps == in_all, "nothing is computed twice"
    assert summary(here / "part") == summary(here / "whole")
    assert measured(here / "part") == measured(here / "whole")


@pytest.mark.slow
def test_a_killed_call_goes_on_and_comes_to_the_same_table(here, cache):
    words = ["evals", *JOB.split(), "--limit", "200", "--contexts", "--out"]
    code, whole, err = run(here, cache, *words, "whole")
    assert code == 0, err
    process = start(here, cache, *words, "part")
    store, end = here / "part" / "measured", time.monotonic() + 120
    while not store.exists() or len(rows_of(store)) < 100:
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    kept = (store / "0000.jsonl").read_bytes()
    kept = kept[: kept.rfind(b"\n") + 1]
    code, out, err = run(here, cache, *words, "part")
    assert (code, out) == (0, whole), err
    assert (store / "0000.jsonl").read_bytes().startswith(kept)
    assert len(measured(here / "part")) == len(measured(here / "whole"))


def test_models_by_name_have_the_numbers_of_the_run(finished, call, monkeypatch):
    models = ["run/hybrid_terrace/models/tuned", "run/linear/models/transferred"]
    words = ["linearized", "--base", "run/the-base", "--models", *models, *JOB.split()[2:]]
    words += ["--data.length", str(LENGTH), "--data.test-fraction", "0.2", "--contexts"]
    words += ["--data.groups", *(f"{name}=run/{name}.jsonl" for name in GROUPS)]
    code, _, err = call_in(finished[0], call, monkeypatch, *words, "--out", "named")
    assert code == 0, err
    said, whole = summary(Path("named")), summary(Path("runs/linearized/001"))
    labels = dict(zip(("base", *models), ("base", LABELS[3], LABELS[5]), strict=True))
    of_run = {(row["label"], row["branch"]): row for row in whole["models"]}
    assert {row["label"] for row in said["models"]} == set(labels)
    for row in said["models"]:
        same = of_run[labels[row["label"]], row["branch"]]
        for name in ("text", "repeats", "groups"):
            assert row[name] == same[name]
    assert {row["label"] for row in said["layers"]} == set(models)
    assert said["decoding"] == {}
    assert not Path("named/plots/decoding.png").exists()


def test_without_text_said_twice_there_is_no_verdict(here, call):
    edit(here / "run", lambda config: config.update(recall=0.0))
    code, out, _ = call(evaluate, *JOB.split(), "--contexts", "--out", "out")
    assert code == 0
    assert "said twice?" not in out
    assert "Does the window alone do?" not in out
    assert summary(Path("out"))["windows"] == dict.fromkeys(GROUPS, 10)


def test_a_seed_folder_is_a_subject_and_a_missing_model_is_left_out(here, call):
    for seed in (3, 5):
        shutil.copytree(here / "run/hybrid_terrace", here / f"run/seed-{seed}/hybrid_terrace")
    shutil.rmtree(here / "run/seed-5/hybrid_terrace/models/tuned")
    edit(here / "run", lambda config: config["swap"].update(attention=["hybrid_terrace"]), [3, 5])
    options = [*JOB.split()[2:], "--contexts", "--out"]
    assert call(evaluate, "linearized", "run", *options, "first")[0] == 0
    assert call(evaluate, "linearized", "run/seed-5", *options, "last")[0] == 0
    labels = [
        list(dict.fromkeys(r["label"] for r in summary(here / name)["models"]))
        for name in ("first", "last")
    ]
    assert labels == [LABELS[:4], LABELS[:3]]


def edit(folder: Path, change, seeds=(0,)) -> None:
    record = json.loads((folder / "config.json").read_text())
    change(record["config"])
    (folder / "config.json").write_text(json.dumps(record | {"seeds": list(seeds)}))


WRONG = [
    ("nothing", "linearized", "needs a run of train lolcats", "--base MODEL"),
    ("no such run", "linearized nowhere", "nowhere is not a run folder", "config.json"),
    ("another preset", "linearized other", "must be a run of train lolcats", "'lm'"),
    ("no base yet", "linearized started", "started has no base yet", "--resume started"),
    ("a config without a field", "linearized old", "old/config.json has no config.swap"),
    ("a run and models", "linearized run --models run/linear/models/tuned", "models must be left"),
    ("a run and data", "linearized run --data.length 8", "data and instructions must be left out"),
    ("no base", "linearized --models run/linear/models/tuned", "needs a run of train lolcats"),
    ("no models", "linearized --base run/the-base", "--models MODEL"),
    ("no such model", "linearized --base run/the-base --models no/", "no/"),
    (
        "a model that is softmax",
        "linearized --base run/the-base --models run/the-base",
        "models: run/the-base is not linearized",
    ),
    (
        "a base that is linearized",
        "linearized --base run/linear/models/tuned --models run/linear/models/transferred",
        "base must have softmax attention",
    ),
    (
        "another vocabulary",
        "linearized --base small --models run/linear/models/tuned",
        "the base's vocabulary of 11 tokens; it has 12",
    ),
    (
        "a model twice",
        "linearized --base run/the-base --models run/linear/models/tuned run/linear/models/tuned",
        "models must be different ones",
    ),
    (
        "an odd length",
        "linearized --base run/the-base --models run/linear/models/tuned --data.length 15",
        "data.length must be even",
        "got 15",
    ),
    ("no windows", "linearized run --limit 0", "limit must be >= 1; got 0"),
    ("no layer windows", "linearized run --layer-windows 0", "layer_windows must be >= 1"),
    (
        "no context",
        "linearized run --contexts 8 0",
        "contexts must be different numbers >= 1",
    ),
    ("no rounds", "linearized run --rounds 0", "rounds must be >= 1; got 0"),
    ("another's folder", "linearized run --out other", "out: other has other results"),
    ("a file as folder", "linearized run --out run/config.json", "run/config.json is not a folder"),
    ("an unknown flag", "linearized run --context 8", "--context;", "nearest: --contexts"),
]


@pytest.fixture(scope="module")
def wrong(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wrong")
    write_run(folder / "run")
    write_base(folder / "small", (*"abcdefghi", "?", "<|endoftext|>"))
    for name in ("other", "started", "old"):
        (folder / name).mkdir()
    (folder / "other/config.json").write_text(json.dumps({"preset": "lm", "config": {}}))
    record = json.loads((folder / "run/config.json").read_text())
    record["config"]["base"] = ""
    (folder / "started/config.json").write_text(json.dumps(record))
    del record["config"]["swap"]
    (folder / "old/config.json").write_text(json.dumps(record))
    return folder


@pytest.mark.parametrize("case", WRONG, ids=[case[0] for case in WRONG])
def test_bad_input_is_one_line_before_a_model_is_read(case, wrong, call, monkeypatch):
    _, words, *says = case
    monkeypatch.setattr("jlab.hub.load.load_hf", None)
    code, out, err = call_in(wrong, call, monkeypatch, *words.split())
    assert (code, out) == (2, "")
    assert_one_line(err, says)
    assert not (wrong / "runs").exists()


def test_results_that_another_process_writes_are_refused(here, call):
    with Run(here / "out").locked():
        code, _, err = call(evaluate, *JOB.split(), "--contexts", "--out", "out")
    assert code == 2
    assert err.splitlines()[-1] == "error: out is in use: another process runs in it"


@pytest.mark.slow
def test_a_run_of_the_recipe(unbroken, call):
    """Base and swapped model on the windows of the run have the losses that it has found."""
    folder, _, _ = unbroken("lolcats")
    code, _, err = call(evaluate, "linearized", str(folder), "--limit", "4", "--contexts")
    assert code == 0, err
    found = json.loads((folder / "result.json").read_text())
    said = {
        row["label"]: row["groups"]
        for row in summary(Path("runs/linearized/001"))["models"]
        if row["branch"] == "both"
    }
    arm = found["arms"]["hybrid_terrace"]
    for label, groups in said.items():
        losses = found["base"] if label == "base" else arm[label.split()[1]]
        measured = [math.log(groups[name]["perplexity"]) for name in found["groups"]]
        # Merged adapters round otherwise than adapters beside the weights.
        np.testing.assert_allclose(measured, losses, rtol=1e-4, err_msg=label)
    assert {"base", "hybrid_terrace swapped"} <= set(said)
