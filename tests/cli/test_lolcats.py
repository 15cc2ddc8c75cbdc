"""`python -m train lolcats` from end to end: its promises, kills, other bases, bad input."""

import itertools
import json
import random
import re
import signal
from pathlib import Path

import jax
import numpy as np
import pytest

from jlab.data import evaluation_batches, folder_tokenizer, load_groups, with_repeats
from jlab.hub import load_hf, save_hf
from jlab.nn import llama
from jlab.training.config import from_dict
from jlab.training.language import make_evaluate
from jlab.training.mesh import make_mesh
from tests.cli.commands import assert_one_line, rows, run, start
from tests.cli.test_kill import arrays, assert_same_arrays, steps_logged, stop, wait_until
from tests.hub.models import random_params
from train.__main__ import main as train
from train.lolcats_config import Config

STAGES = ("transfer", "tuned", "alone")
KIND = "hybrid_terrace"
BLOCKS = ("--transfer.block", "1", "--name", "lolcats")
INSTRUCTIONS = [
    {"instruction": f"Add {i} and {j}.", "input": "", "output": f"It is {i + j}."}
    for i in range(20)
    for j in range(20)
]


def result(folder: Path) -> dict:
    return json.loads((folder / "result.json").read_text())


@pytest.fixture(scope="module")
def released(tmp_path_factory) -> Path:
    """A random checkpoint of the Llama family with a byte tokenizer."""
    from jlab.data import byte_tokenizer

    folder = tmp_path_factory.mktemp("released") / "base"
    config = llama(d_model=32, layers=2, heads=2, kv_heads=1, d_ff=48, vocab_size=257)
    save_hf(folder, config, random_params(config), fields={"eos_token_id": 256})
    byte_tokenizer().save(folder / "tokenizer.json")
    return folder


def test_a_run_leaves_all_that_is_promised(unbroken):
    folder, out, err = unbroken("lolcats")
    assert {path.name for path in (folder / "plots").iterdir()} == {
        "perplexity.png",
        "layers.png",
        "branches.png",
    }
    assert (folder / "summary.md").read_text() in out
    for stage in STAGES:
        part = folder / KIND / stage
        assert list((part / "tensorboard").glob("events.*"))
        logged = [row["step"] for row in rows(part) if "batch" in row]
        assert logged == list(range(1, len(logged) + 1))
    assert [len(row["transfer/mse"]) for row in rows(folder / KIND / "transfer")[2:3]] == [2]
    found = result(folder)
    assert found["groups"] == ["code", "tests", "docs", "headers", "repeats"]
    arm = found["arms"][KIND]
    losses = ("swapped", "transferred", "tuned", "tuned_without_linear", "alone_without_window")
    assert all(len(arm[name]) == 5 and np.isfinite(arm[name]).all() for name in losses)
    # What it optimises falls: the squared error of every layer.
    before, after = (np.array(arm["layers"][when]["mse"]) for when in ("swapped", "transferred"))
    assert (after < before).all()
    assert arm["layers"]["swapped"]["reach"] == arm["layers"]["transferred"]["reach"]
    assert "| step 1, 1 layer(s) at a time |" in err, "the memory account"


def judged(folder: Path, name: str) -> np.ndarray:
    """Test losses of an exported model, on the windows of its run."""
    model, params = load_hf(folder / KIND / "models" / name)
    assert {layer.attention for layer in model.pattern} == {KIND}
    config = from_dict(Config, json.loads((folder / "config.json").read_text())["config"])
    tokenizer = folder_tokenizer(folder / KIND / "models" / name)
    groups = with_repeats(load_groups(config.data, None, tokenizer))
    size, mask = config.tune.batch_size, config.data.document_mask
    batches = list(evaluation_batches(groups.test, size, config.test_windows, mask))
    return make_evaluate(model, batches, len(groups.names), make_mesh())(params).loss


def test_what_is_exported_is_what_was_judged(unbroken, cache, monkeypatch):
    folder, _, _ = unbroken("lolcats")
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    arm = result(folder)["arms"][KIND]
    np.testing.assert_array_equal(judged(folder, "transferred"), arm["transferred"])
    # Kernels with their adapters merged are rounded once more, to float32.
    for name in ("tuned", "alone"):
        np.testing.assert_allclose(judged(folder, name), arm[name], rtol=1e-6, err_msg=name)
    for one, other in itertools.combinations(("swapped", "transferred", "tuned", "alone"), 2):
        assert np.abs(np.divide(arm[one], arm[other]) - 1).max() > 4e-6, "told apart by that"


@pytest.mark.slow
def test_a_run_killed_in_both_steps_comes_to_the_same_numbers(unbroken, tmp_path, cache):
    whole, _, _ = unbroken("lolcats")
    folder = tmp_path / "runs/lolcats/001"
    process = start(tmp_path, cache, "train", "lolcats", "--size", "tiny")
    moment = random.Random("lolcats").randrange(1, 7)
    assert wait_until(process, lambda: steps_logged(folder / KIND / "transfer") >= moment)
    assert stop(process, signal.SIGKILL) == -signal.SIGKILL
    process = start(tmp_path, cache, "train", "lolcats", "--resume")
    assert wait_until(process, lambda: steps_logged(folder / KIND / "alone") >= 5)
    assert stop(process, signal.SIGTERM) in (0, -signal.SIGTERM)
    code, out, err = run(tmp_path, cache, "train", "lolcats", "--resume")
    assert code == 0, err
    assert out == (whole / "summary.md").read_text() + "\n"
    assert (folder / "result.json").read_bytes() == (whole / "result.json").read_bytes()
    for part in ("base", *(f"{KIND}/{stage}" for stage in STAGES)):
        assert rows(folder / part) == rows(whole / part)
        assert_same_arrays(arrays(folder / part), arrays(whole / part))
    for name in ("transferred", "tuned", "alone"):
        model = Path(KIND) / "models" / name / "model.safetensors"
        assert (folder / model).read_bytes() == (whole / model).read_bytes()


@pytest.mark.slow
def test_block_by_block_equals_all_at_once_and_survives_kills(unbroken, tmp_path, cache):
    """A kill between the blocks, and one in the second block's training."""
    whole, _, _ = unbroken("lolcats")
    folder = tmp_path / "runs/lolcats/001" / KIND / "transfer"
    process = start(tmp_path, cache, "train", "lolcats", "--size", "tiny", *BLOCKS)
    assert wait_until(process, (folder / "block-00" / "result.json").exists)
    assert stop(process, signal.SIGKILL) == -signal.SIGKILL
    process = start(tmp_path, cache, "train", "lolcats", "--resume")
    assert wait_until(process, lambda: steps_logged(folder / "block-01") >= 3)
    assert stop(process, signal.SIGKILL) == -signal.SIGKILL
    code, _, err = run(tmp_path, cache, "train", "lolcats", "--resume")
    assert code == 0, err
    assert not list((folder / "streams").iterdir()), "the streams are gone at the end"
    ours, theirs = (result(f)["arms"][KIND] for f in (tmp_path / "runs/lolcats/001", whole))
    # The same gradients in another order of sums; Adam divides small ones by their own size.
    for name in ("transferred", "tuned"):
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-5)
    for name in ("mse", "xent"):
        got, expected = (arm["layers"]["transferred"][name] for arm in (ours, theirs))
        np.testing.assert_allclose(got, expected, rtol=1e-3)


@pytest.fixture(scope="module")
def instructions(tmp_path_factory) -> tuple[str, ...]:
    path = tmp_path_factory.mktemp("instructions") / "alpaca.json"
    path.write_text(json.dumps(INSTRUCTIONS))
    words = ("--instructions.path", str(path), "--instructions.held-out", "40", "--recall", "0")
    return (*words, "--data.length", "128", "--no-control")


@pytest.mark.slow
def test_a_released_base_on_instructions_in_bfloat16(released, instructions, tmp_path, cache):
    words = (*instructions, "--model.dtype", "bfloat16")
    code, out, err = run(
        tmp_path, cache, "train", "lolcats", "--size", "tiny", "--base", str(released), *words
    )
    assert code == 0, err
    folder = tmp_path / "runs/lolcats/001"
    assert not (folder / "base").exists()
    found = result(folder)
    assert found["groups"] == ["instructions"]
    assert "alone" not in found["arms"][KIND]
    assert np.isfinite(found["arms"][KIND]["tuned"]).all()
    config, params = load_hf(folder / KIND / "models" / "tuned")
    assert config.pattern[0].attention == KIND
    # Maps stay float32: beside the 1s of an identity bfloat16 would lose steps of 0.001.
    learned = {"linearized": "float32", "q_proj": "bfloat16"}
    attn = params["blocks"]["0"]["attn"]
    for name, dtype in learned.items():
        assert {leaf.dtype.name for leaf in jax.tree.leaves(attn[name])} == {dtype}
    assert params["embed"]["embedding"].dtype.name == "bfloat16"
    assert "| softmax base " in out


@pytest.mark.slow
def test_the_preset_of_8B_holds_and_computes_in_bfloat16(released, instructions, call):
    """Here on a base of 32 thousand parameters."""

    def told(*words):
        base = ("--base", str(released), *instructions)
        code, out, err = call(train, "lolcats", "--size", "8B", *base, "--dry-run", *words)
        assert code == 0, err
        cost = json.loads(out)["cost"]
        return cost["parameters"], *(cost["memory"][n] for n in (1, 2))

    n, block, tune = told()
    # Two streams of 32 numbers per token, of two bytes each.
    assert block["disk"] == 2 * 2 * 32 * 128 * 2400 * 8
    _, wide_block, wide_tune = told("--model.dtype", "float32")
    assert wide_block["disk"] == 2 * block["disk"]
    assert wide_tune["held"] - tune["held"] == 2 * n


@pytest.mark.slow
def test_a_run_is_a_base(unbroken, tmp_path, cache):
    whole, _, _ = unbroken("lolcats")
    words = ("--base", str(whole / "base"), "--swap.attention", "linear", "--no-control")
    words += ("--swap.softmax-layers", "0", "--transfer.block", "1")
    code, _, err = run(tmp_path, cache, "train", "lolcats", "--size", "tiny", *words)
    assert code == 0, err
    folder = tmp_path / "runs/lolcats/001"
    found = result(folder)
    assert found["base"] == result(whole)["base"]
    assert set(found["arms"]) == {"linear"}
    # Layer 0 stays softmax: blocks of one layer, of which the first learns nothing.
    assert re.search(r"^\| linear +\| 1 ", (folder / "summary.md").read_text(), re.M)
    config, _ = load_hf(folder / "linear" / "models" / "tuned")
    assert [layer.attention for layer in config.pattern] == ["softmax", "linear"]


def test_a_dry_run_tells_the_cost_and_writes_nothing(call, tmp_path):
    code, out, err = call(train, "lolcats", "--size", "tiny", "--dry-run")
    assert code == 0, err
    cost = json.loads(out)["cost"]
    # 8 rows of 32 tokens: 8 steps of transfer, 8 of LoRA, 16 of the control.
    assert cost["tokens"] == {"transfer": 2048, "tune": 2048, "control": 4096}
    assert cost["base"]["tokens"] == 16 * 8 * 32
    assert [need["way"] for need in cost["memory"]] == [
        "step 1, all layers at once",
        "step 1, 1 layer(s) at a time",
        "step 2",
    ]
    joint, block, tune = cost["memory"]
    # Two streams of all windows: 64 of 32 tokens of 32 float32.
    assert (joint["disk"], block["disk"], tune["disk"]) == (0, 2 * 64 * 32 * 32 * 4, 0)
    assert block["held"] < joint["held"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--swap.window", "32"], "swap.window must be below data.length = 32"),
        (["--swap.window", "0"], "window must be >= 1; got 0"),
        (["--swap.attention", "linear", "linear"], "attention must be different kinds"),
        (["--swap.feature-map.features", "0"], "feature_map.features must be positive; got 0"),
        (["--swap.softmax-layers", "0", "0"], "softmax_layers must be different ones"),
        (["--swap.feature-map.learned", "none", "--swap.attention", "linear"], "learned must not"),
        (["--model.pattern.0.window", "16"], "data.length must be at most 16, the attention"),
        (["--base", "{f}/mamba", "--revision", "x"], "revision is for hub ids only; got 'x'"),
        (["--swap.softmax-layers", "2"], "softmax_layers must be in [0, 2); got 2"),
        (["--swap.softmax-layers", "0", "1"], "softmax_layers must leave a layer"),
        (["--tune.lora.targets", "w_q"], "lora.targets: 'w_q' fits no linear map"),
        (["--tune.lora.rank", "0"], "lora.rank must be positive; got 0"),
        (["--transfer.block", "3"], "transfer.block must be at most the model's 2 layers; got 3"),
        (["--transfer.block", "-1"], "block must be >= 0; got -1"),
        (["--transfer.loss.mse-factor", "0"], "mse_factor and xent_factor must not both be 0"),
        (["--recall", "1"], "recall must be in [0, 1); got 1.0"),
        (["--data.length", "31"], "data.length must be even"),
        (["--revision", "main"], "revision must be None without a base"),
        (["--base", "no/such/model"], "no/such/model"),
        (["--base", "{f}"], "{f} is neither a Hugging Face folder"),
        (["--base", "{f}/mamba"], "mamba"),
        (["--instructions.path", "{f}/none.jsonl"], "{f}/none.jsonl"),
        (["--model.pattern.0.attention", "linear"], "the base must be softmax throughout"),
        (["--model.pattern.0.parallel"], "export"),
    ],
)
def test_bad_input_is_refused_in_one_line(words, says, call, tmp_path, tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    (folder / "mamba").mkdir()
    (folder / "mamba" / "config.json").write_text('{"model_type": "mamba"}')
    (folder / "mamba" / "tokenizer.json").write_text("{}")
    words = [word.format(f=folder) for word in words]
    code, _, err = call(train, "lolcats", "--size", "tiny", *words)
    assert code == 2
    assert_one_line(err, [says.format(f=folder)])
    assert list(tmp_path.iterdir()) == []
