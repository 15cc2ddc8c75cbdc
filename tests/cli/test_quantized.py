"""`python -m evals quantized` on a tiny model: end to end, stopped, kept models, bad input."""

import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import evals.quantized_measure
from evals.__main__ import main as evaluate
from jlab.data import DataConfig, evaluation_batches, folder_tokenizer, load_groups
from jlab.hub import load_hf, load_packed, save_hf
from jlab.nn import Transformer
from jlab.nn.formats import IntFormat, parse_format
from jlab.precision import quantize_model
from jlab.training.signals import Interrupted
from tests.cli.commands import assert_one_line, run
from tests.cli.linearized import GROUPS, LENGTH, write_base, write_text
from tests.cli.sampled import rows_of
from tests.hub.models import same_bits

TEXT = (
    f"--data.groups one=text/one.jsonl two=text/two.jsonl --data.length {LENGTH}"
    " --data.test-fraction 0.2 --limit 10 --batch 8 --samples 200 --calibration-windows 8"
)
JOB = f"quantized model {TEXT} --bits 3 --method rtn gptq awq"
LABELS = ["base", "rtn int3:asym", "gptq int3:asym", "awq int3:awq_asym"]


def write_inputs(folder: Path) -> Path:
    write_base(folder / "model")
    (folder / "text").mkdir()
    write_text(folder / "text")
    return folder


@pytest.fixture
def here(tmp_path):
    return write_inputs(tmp_path)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, cache):
    """A folder where the command has run in a process of its own; stdout and stderr."""
    folder = write_inputs(tmp_path_factory.mktemp("finished"))
    words = [*JOB.split(), "--save", "packed", "--save-to", "kept"]
    code, out, err = run(folder, cache, "evals", *words)
    assert code == 0, err
    return folder, out, err


def summary(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text())


def call_in(folder: Path, call, monkeypatch, *words: str) -> tuple[int, str, str]:
    monkeypatch.chdir(folder)
    return call(evaluate, *words)


def test_the_command_end_to_end(finished):
    here, out, err = finished
    folder = here / "runs/quantized/001"
    assert err.splitlines()[-1] == "results in runs/quantized/001"
    assert "gptq int3:asym: layer 2/2: q_proj " in err
    assert (folder / "summary.md").read_text() == out
    plots = {path.name: path.stat().st_size for path in (folder / "plots").iterdir()}
    assert set(plots) == {"perplexity.png", "maps.png"}
    assert min(plots.values()) > 5000
    said = summary(folder)
    assert said["windows"] == dict.fromkeys(GROUPS, 10)
    assert [row["label"] for row in said["models"]] == LABELS
    for row in said["models"]:
        assert row["low"] < row["perplexity"] < row["high"]
        assert set(row["groups"]) == set(GROUPS)
    base, *rows = said["models"]
    assert base["worse"] == {"nats": 0.0, "low": 0.0, "high": 0.0}
    for row in rows:
        assert row["worse"]["low"] < row["worse"]["nats"] < row["worse"]["high"]
        logs = math.log(row["perplexity"]) - math.log(base["perplexity"])
        assert row["worse"]["nats"] == pytest.approx(logs, abs=1e-9)
        assert row["packed"] < base["packed"] == row["dense"]
        assert row["fallbacks"] == []
    assert len(said["maps"]) == 3 * 2 * 7
    errors = {(x["method"], x["name"]): x for x in said["maps"]}
    for (method, _), line in errors.items():
        assert 0 < line["error"] <= line["rtn_error"] * (1 if method == "rtn" else 1.2)
    assert all(text in out for text in ("down_proj", "nats above the base"))
    record = json.loads((folder / "config.json").read_text())
    assert (record["evaluation"], record["config"]["bits"]) == ("quantized", [3])
    assert set(record["fingerprints"]) == {*GROUPS, "tokenizer"}
    kept = rows_of(here / "runs/quantized/measured")
    assert sum("window" in row for row in kept) == 4 * 20


def test_kept_models_are_those_that_were_measured(finished, call, monkeypatch):
    """Each loads to the bit as it was quantised; measured as a model it has its row's number."""
    here, *_ = finished
    monkeypatch.chdir(here)
    said = {row["label"]: row for row in summary(here / "runs/quantized/001")["models"]}
    config, params = load_hf(here / "model")
    data = DataConfig(
        tuple(f"{name}=text/{name}.jsonl" for name in GROUPS), length=LENGTH, test_fraction=0.2
    )
    groups = load_groups(data, None, folder_tokenizer(here / "model"))
    calibration = list(evaluation_batches(groups.train, 8, 8))
    made = quantize_model(
        config, params, calibration, "gptq", IntFormat(3, "asym"), step_dtype="float16"
    )
    folder = Path("kept/gptq-int3-asym")
    assert same_bits(load_packed(folder)[1], made.params)
    weights = (folder / "model.safetensors").stat().st_size
    assert 0 < weights - said["gptq int3:asym"]["packed"] < 8000, "the header"
    words = ["quantized", "kept/awq-int3-awq_asym", *TEXT.split(), "--method", "rtn", "--bits", "8"]
    assert call(evaluate, *words, "--out", "again")[0] == 0
    again = summary(Path("again"))["models"][0]
    assert again["perplexity"] == said["awq int3:awq_asym"]["perplexity"]


def test_numbers_are_those_of_the_model_itself(finished, cache, monkeypatch):
    """Every window by itself through `Transformer.apply`: no batches, no store."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.chdir(finished[0])
    config, params = load_hf("model")
    _, rounded = load_packed("kept/rtn-int3-asym")
    data = DataConfig(
        tuple(f"{name}=text/{name}.jsonl" for name in GROUPS), length=LENGTH, test_fraction=0.2
    )
    groups = load_groups(data, None, folder_tokenizer(Path("model")))
    (windows,) = evaluation_batches(groups.test, 20, 10)

    @jax.jit
    def loss(params, tokens, targets, mask, segment_ids, positions):
        places = {"segment_ids": segment_ids[None], "positions": positions[None]}
        logits = Transformer(config).apply({"params": params}, tokens[None], **places).logits[0]
        nats = -jax.nn.log_softmax(logits)[jnp.arange(len(targets)), targets]
        return (nats * mask).sum() / mask.sum()

    said = summary(Path("runs/quantized/001"))["models"]
    for row, weights in zip(said[:2], (params, rounded), strict=True):
        losses = np.array([loss(weights, *each) for each in zip(*windows[:5], strict=True)])
        means = [losses[windows.group == g].mean() for g in range(2)]
        assert row["perplexity"] == pytest.approx(np.exp(np.mean(means)), rel=2e-5)


def test_a_stopped_call_goes_on_where_it_was(here, call, monkeypatch):
    words = [*JOB.split(), "--out", "whole"]
    code, whole, err = call(evaluate, *words)
    assert code == 0, err
    steps = []

    def stops(_stop, at):
        steps.append(at)
        if len(steps) == 12:
            raise Interrupted(f"stopped at {at}")

    monkeypatch.setattr(evals.quantized_measure, "_go_on", stops)
    words[-1] = "part"
    code, out, err = call(evaluate, *words)
    assert (code, out) == (0, "")
    assert err.splitlines()[-1] == (
        f"stopped at {steps[-1]}; go on with: python -m evals {' '.join(words)}"
    )
    assert not Path("part/config.json").exists()
    made = []
    monkeypatch.setattr(evals.quantized_measure, "_go_on", lambda _stop, at: made.append(at))
    code, out, err = call(evaluate, *words)
    assert (code, out) == (0, whole), err
    assert "rtn int3:asym" not in made, "what was done is not done again"
    assert summary(here / "part") == summary(here / "whole")
    monkeypatch.setattr(evals.quantized_measure, "quantize_model", None)
    made.clear()
    assert call(evaluate, *words)[:2] == (0, whole)
    assert made == [], "a second call measures nothing"


def test_dequantised_models_are_kept_for_transformers(here, call):
    words = ["quantized", "model", *TEXT.split(), "--method", "rtn", "--formats", "e2m1", "mxfp4"]
    code, out, err = call(evaluate, *words, "--save", "hf", "--save-to", "kept", "--out", "out")
    assert code == 0, err
    _, params = load_hf(here / "kept/rtn-mxfp4")
    config, before = load_hf(here / "model")
    fmt = parse_format("mxfp4")
    assert same_bits(params, quantize_model(config, before, (), "rtn", fmt).params)
    assert (here / "kept/rtn-e2m1/tokenizer.json").is_file()
    assert "mxfp4" in out
    # Another call with other models may not write over these.
    code, _, err = call(
        evaluate, *words, "--ends", "--save", "hf", "--save-to", "kept", "--out", "out"
    )
    assert code == 2
    assert err.splitlines()[-1].startswith("error: save_to: kept/rtn-e2m1 is there already")


def test_other_text_for_calibration_and_one_pass(here, call):
    words = ["quantized", "model", *TEXT.split(), "--method", "gptq", "--bits", "2"]
    more = ["--calibration", "other=text/two.jsonl", "--no-sequential", "--group-size", "8"]
    code, out, err = call(evaluate, *words, *more, "--act-order", "--ends", "--out", "out")
    assert code == 0, err
    record = json.loads((here / "out/config.json").read_text())
    assert "calibration other" in record["fingerprints"]
    assert "one grid per output and 8 inputs, calibrated in one pass" in out
    assert call(evaluate, *words, "--out", "plain")[0] == 0
    found = [summary(here / name)["models"][1] for name in ("out", "plain")]
    assert found[0]["packed"] < found[1]["packed"], "embedding and head are rounded too"
    assert found[0]["bits_per_weight"] > found[1]["bits_per_weight"], "more grids"


WRONG = [
    ("nothing", "quantized", "needs a model: python -m evals quantized MODEL"),
    ("no such model", "quantized nowhere/", "nowhere/"),
    ("no method", f"quantized model {TEXT} --method", "method must name at least one"),
    ("an unknown method", f"quantized model {TEXT} --method best", "best"),
    ("a method twice", f"quantized model {TEXT} --method rtn rtn", "method must be different ones"),
    ("one bit", f"quantized model {TEXT} --bits 1", "bits must be a whole number in 2..16; got 1"),
    ("no bits", f"quantized model {TEXT} --bits --formats", "bits or formats must name at least"),
    ("a format", f"quantized model {TEXT} --formats int4 nf4", "format must be intB", "got 'nf4'"),
    ("blocks", f"quantized model {TEXT} --formats mxfp4", "mxfp4 is for rtn alone"),
    (
        "blocks in groups",
        f"quantized model {TEXT} --method rtn --formats mxfp4 --group-size 8",
        "group_size must be left out with mxfp4",
    ),
    ("a group", f"quantized model {TEXT} --group-size 5", "group_size must divide", "got 5"),
    ("no group", f"quantized model {TEXT} --group-size 0", "group_size must be >= 1; got 0"),
    ("damping", f"quantized model {TEXT} --damping 2", "damping must be above 0 and at most 1"),
    ("no windows", f"quantized model {TEXT} --limit 0", "limit must be >= 1; got 0"),
    (
        "no calibration",
        f"quantized model {TEXT} --calibration-windows 0",
        "calibration_windows must be >= 1",
    ),
    ("nowhere to save", f"quantized model {TEXT} --save packed", "--save-to FOLDER"),
    ("nothing to save", f"quantized model {TEXT} --save-to kept", "save and save_to must go"),
    (
        "floats packed",
        f"quantized model {TEXT} --formats e2m1 --save packed --save-to kept",
        "packed is for integer formats; formats names e2m1",
    ),
    ("another's folder", f"quantized model {TEXT} --out other", "other has other results"),
    ("a file as folder", f"quantized model {TEXT} --out text/one.jsonl", "is not a folder"),
    ("an unknown flag", f"quantized model {TEXT} --bit 4", "--bit;", "nearest: --bits"),
    ("missing text", f"quantized model {TEXT} --calibration a=no.jsonl", "no.jsonl"),
]


@pytest.fixture(scope="module")
def wrong(tmp_path_factory):
    folder = write_inputs(tmp_path_factory.mktemp("wrong"))
    (folder / "other").mkdir()
    (folder / "other/config.json").write_text(json.dumps({"preset": "lm", "config": {}}))
    return folder


@pytest.mark.parametrize("case", WRONG, ids=[case[0] for case in WRONG])
def test_bad_input_is_one_line_before_anything_is_quantised(case, wrong, call, monkeypatch):
    _, words, *says = case
    monkeypatch.setattr("jlab.precision.quantize_model", None)
    code, out, err = call_in(wrong, call, monkeypatch, *words.split())
    assert (code, out) == (2, "")
    assert_one_line(err, says)
    assert not (wrong / "runs/quantized/001").exists()


def test_a_damaged_packed_model_is_one_line(finished, call, monkeypatch, tmp_path):
    here, *_ = finished
    folder = tmp_path / "damaged"
    folder.mkdir()
    for path in (here / "kept/rtn-int3-asym").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])
    code, _, err = call(evaluate, "quantized", str(folder), *TEXT.split(), "--out", "x")
    assert code == 2
    assert "is damaged" in err.splitlines()[-1]


@pytest.mark.slow
def test_a_model_of_the_trainer_is_measured_on_its_own_text(unbroken, call):
    """With the perplexity that `evals perplexity` finds, and kept models that `load_hf` takes."""
    folder, _, _ = unbroken("lm")
    words = ["--method", "rtn", "--bits", "4", "--limit", "4", "--calibration-windows", "2"]
    more = ["--save", "packed", "--save-to", "kept", "--out", "out"]
    code, _, err = call(evaluate, "quantized", str(folder), *words, *more)
    assert code == 0, err
    said = summary(Path("out"))["models"]
    code, table, _ = call(evaluate, "perplexity", str(folder), "--limit", "4")
    assert code == 0
    for name, score in said[0]["groups"].items():
        assert f"{score['perplexity']:.3f}" in next(x for x in table.splitlines() if name in x)
    config, params = load_packed("kept/rtn-int4-asym")
    save_hf("dense", config, params)
    assert Path("kept/rtn-int4-asym/tokenizer.json").is_file()
