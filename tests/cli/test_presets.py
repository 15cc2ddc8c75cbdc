"""Every preset of the command line, run as a user runs it, at its smallest size."""

import json
import os
import re
import subprocess
import sys
import tomllib

import numpy as np
import pytest

from configs import PRESETS as LISTED
from evals.__main__ import EVALS
from evals.__main__ import main as evaluate
from tests.cli.commands import PRESETS, ROOT, environment, parts, rows, run
from train.__main__ import main as train

PLOTS = {
    "lm": {"proportions.png", "loss_by_group.png"},
    "aioli": {"proportions.png", "loss_by_group.png", "matrix.png"},
    "mixing_compare": {
        "proportions.png",
        "loss_by_group.png",
        "matrix.png",
        "differences.png",
        "mixtures.png",
    },
    "mixing_sweep": {
        "loss_by_group.png",
        "fidelity.png",
        "matrices.png",
        "benefits.png",
        "similarity.png",
        "proportions.png",
    },
}
# Both train as `aioli` does, many parts and branches of them: a minute each.
LONG = ("mixing_compare", "mixing_sweep")
EACH = [
    pytest.param(preset, marks=pytest.mark.slow) if preset in LONG else preset for preset in PRESETS
]


def test_every_preset_is_tested_here():
    # Those with files of their own: `arithmetic` makes its problems, `lolcats` trains parts of
    # models, `precision` and `precision_sweep` quantise them, `vqvae` reads images.
    others = {"arithmetic", "lolcats", "precision", "precision_sweep", "vqvae", "vqvae_compare"}
    assert set(LISTED) == {*PRESETS, *others}


@pytest.mark.parametrize("preset", EACH)
def test_a_run_without_network_leaves_all_that_is_promised(preset, unbroken):
    folder, out, _ = unbroken(preset)
    for part in parts(preset, folder).values():
        assert rows(part)
        assert list((part / "tensorboard").glob("events.*"))
        assert list((part / "checkpoints" / "manifests").glob("*.json"))
        assert {"model.json", "result.json"} <= {path.name for path in part.iterdir()}
    assert {path.name for path in (folder / "plots").iterdir()} == PLOTS[preset]
    for plot in (folder / "plots").iterdir():
        assert plot.read_bytes().startswith(b"\x89PNG")
    assert (folder / "summary.md").read_text() in out
    assert "| code" in out
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["seeds"]["0"] is not None
    assert summary["compile_seconds"] > 0


@pytest.mark.parametrize("preset", EACH)
def test_the_config_says_what_ran_and_where(preset, unbroken):
    folder, _, _ = unbroken(preset)
    record = json.loads((folder / "config.json").read_text())
    assert (record["preset"], record["size"], record["seeds"]) == (preset, "tiny", [0])
    assert record["config"]["data"]["groups"] == ["stdlib"]
    assert {"python", "cores", "device", "versions", "commit", "command"} <= set(
        record["environment"]
    )


@pytest.mark.parametrize("preset", EACH)
def test_progress_is_plain_lines_where_nobody_watches(preset, unbroken):
    _, _, err = unbroken(preset)
    assert "\x1b" not in err
    assert "\r" not in err
    lines = [line for line in err.splitlines() if "tokens/s" in line]
    assert lines
    for line in lines:
        assert re.fullmatch(rf"{preset}( [\w-]+)? \d+/\d+  loss \d+\.\d+  [\d,]+ tokens/s", line)


@pytest.mark.parametrize(
    "preset",
    [
        "lm",
        pytest.param("aioli", marks=pytest.mark.slow),
        pytest.param("mixing_compare", marks=pytest.mark.slow),
        pytest.param("mixing_sweep", marks=pytest.mark.slow),
    ],
)
def test_a_saved_config_gives_the_same_numbers(preset, unbroken, tmp_path, cache):
    folder, _, _ = unbroken(preset)
    saved = folder / "config.json"
    code, _, err = run(tmp_path, cache, "train", preset, "--config", str(saved), "--name", "again")
    assert code == 0, err
    for part, first in parts(preset, folder).items():
        again = tmp_path / "runs" / "again" / "001" / part
        assert rows(again) == rows(first)
        assert (again / "result.json").read_bytes() == (first / "result.json").read_bytes()
    summary = json.loads((tmp_path / "runs" / "again" / "001" / "summary.json").read_text())
    assert summary["cache_misses"] == 0, "the second start of a preset compiles nothing"


def test_seeds_have_folders_and_a_common_table(tmp_path, cache):
    words = ("train", "lm", "--size", "tiny", "--seeds", "0", "1")
    code, out, err = run(tmp_path, cache, *words)
    assert code == 0, err
    folder = tmp_path / "runs" / "lm" / "001"
    results = [json.loads((folder / f"seed-{seed}" / "result.json").read_text()) for seed in (0, 1)]
    assert results[0] != results[1]
    averages = [np.mean(result["perplexity"]) for result in results]
    assert f"{np.mean(averages):.3f} ± {np.std(averages, ddof=1):.3f}" in out
    assert "2 seed(s)" in out
    assert set(json.loads((folder / "summary.json").read_text())["seeds"]) == {"0", "1"}


@pytest.mark.parametrize(
    ("words", "size", "seeds"),
    [
        ("lm", "demo", [0]),
        ("aioli", "demo", [0, 1, 2]),
        ("aioli --size tiny", "tiny", [0]),
        ("aioli --seeds 4 2", "demo", [4, 2]),
        ("aioli --seed 7", "demo", [7]),
        ("aioli --seed=0", "demo", [0]),
        ("aioli --config saved.json", "tiny", [5, 6]),
        ("aioli --config saved.json --seeds 1", "tiny", [1]),
        ("aioli --config saved.json --seed 1", "tiny", [1]),
        ("aioli --config fields.json", "demo", [9]),
    ],
)
def test_size_and_seeds_are_the_given_ones_else_the_saved_ones(
    words, size, seeds, call, monkeypatch, tmp_path
):
    (tmp_path / "saved.json").write_text('{"size": "tiny", "seeds": [5, 6], "config": {}}')
    (tmp_path / "fields.json").write_text('{"seed": 9}')
    records = []
    monkeypatch.setattr("train.driver.train", lambda *given: records.append(given[2]) or 0)
    assert call(train, *words.split())[0] == 0
    assert records == [{"preset": words.split()[0], "size": size, "seeds": seeds}]


@pytest.mark.parametrize("preset", EACH)
def test_a_dry_run_tells_the_cost_and_writes_nothing(preset, call, tmp_path):
    code, out, _ = call(train, preset, "--size", "tiny", "--dry-run")
    assert code == 0
    told = json.loads(out)
    assert told["config"]["loop"]["steps"] > 0
    cost = told["cost"]
    names = ("parameters", "tokens", "train_flops", "peak_bytes_per_device", "train_seconds")
    assert all(cost[name] > 0 for name in names)
    steps = told["config"]["loop"]["steps"] * told["config"]["batch_size"]
    runs = cost["tokens"] / (steps * told["config"]["data"]["length"])
    # The sweep trains most without a loop of its own: the path, 4 one-hot and 6 full runs, and at 2
    # checkpoints 6 branches of 4 steps, 8 steps of probes, 2 batches observed at twice a step.
    sweep = 1 + 4 + 6 + 2 * (6 * 4 + 8 + 2 * 2) / 24
    assert runs == (sweep if preset == "mixing_sweep" else len(parts(preset, tmp_path)))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("preset", LISTED)
def test_every_field_has_help(preset, call, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    _assert_every_field_has_help(*call(train, preset, "--help"))


@pytest.mark.parametrize("name", EVALS)
def test_every_field_of_an_evaluation_has_help(name, call, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    _assert_every_field_has_help(*call(evaluate, name, "--help"))


@pytest.mark.parametrize("words", [(), ("-h",), ("--help",)])
def test_all_presets_and_evaluations_are_listed(words, call):
    for main, listed in ((train, LISTED), (evaluate, EVALS)):
        code, out, err = call(main, *words)
        assert (code, err) == (0, "")
        assert all(
            re.search(rf"^  {name} +{re.escape(text)}$", out, re.M) for name, text in listed.items()
        )


def test_a_reader_that_goes_away_is_no_error(cache):
    """As with `python -m train --help | head -1`."""
    read, write = os.pipe()
    os.close(read)
    words = [sys.executable, "-m", "train", "--help"]
    done = subprocess.run(words, env=environment(cache), stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    assert (done.returncode, done.stderr) == (1, b"")


def test_the_entry_points_exist():
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts == {"jlab-train": "train.__main__:main", "jlab-eval": "evals.__main__:main"}
    assert callable(train)
    assert callable(evaluate)


def _assert_every_field_has_help(code: int, out: str, err: str) -> None:
    assert (code, err) == (0, "")
    # Each field: `  --flag TYPE`, then spaces or a new line, its help and `(default: value)`.
    lines = [re.sub("[│╭╰─]", " ", line).rstrip() for line in out.splitlines()]
    whole = re.sub(r",\n +(?=--)", ", ", "\n".join(lines))  # a long switch and its opposite
    fields = re.split(r"^  ?(?=--[a-z])", whole, flags=re.M)[1:]
    assert len(fields) >= 5
    helps = [re.split(r" {2,}|\n", field, maxsplit=1) for field in fields]
    assert [flag for flag, text in helps if not text.partition("(default:")[0].strip()] == []
