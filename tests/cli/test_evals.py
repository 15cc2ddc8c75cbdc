"""`python -m evals perplexity` on finished runs, whole ones and spoilt ones."""

import json
import re
import shutil

import numpy as np
import pytest

from evals.__main__ import main as evaluate
from tests.cli.commands import assert_one_line, parts


@pytest.fixture
def trained(unbroken, tmp_path):
    """A copy of the unbroken language model's folder, to be spoilt."""
    shutil.copytree(unbroken("lm")[0], tmp_path / "run")
    return tmp_path / "run"


def test_the_table_has_the_numbers_of_the_run(trained, call):
    code, out, _ = call(evaluate, "perplexity", "run", "--limit", "8")
    assert code == 0
    found = [re.split(r" *\| *", line)[1:-1] for line in out.splitlines() if line.startswith("|")]
    assert found[0] == ["group", "perplexity", "95 % interval", "bits per byte", "windows"]
    result = json.loads((trained / "result.json").read_text())
    names, values, intervals, bits, windows = zip(*found[2:], strict=True)
    # The run measures the same 8 windows per group; both print three decimals.
    assert list(names) == result["groups"]
    assert list(values) == [f"{value:.3f}" for value in result["perplexity"]]
    assert list(bits) == [f"{value:.3f}" for value in result["bits_per_byte"]]
    assert set(windows) == {"8"}
    for value, interval in zip(values, intervals, strict=True):
        low, high = map(float, re.findall(r"[\d.]+", interval))
        assert low < float(value) < high


def test_every_model_below_the_folder_is_evaluated(unbroken, call, tmp_path):
    shutil.copytree(unbroken("aioli")[0], tmp_path / "run")
    code, out, _ = call(evaluate, "perplexity", "run", "--limit", "8")
    assert code == 0
    assert all(f"run/{part}\n" in out for part in parts("aioli", tmp_path / "run"))


def test_scores_do_not_depend_on_the_batch_size(trained, call, tmp_path):
    """Windows are scored one by one; a batch of 3 also leaves a last batch to fill up."""
    shutil.copytree(trained, tmp_path / "other")
    edit(tmp_path / "other", lambda record: record["config"].update(batch_size=3))
    for name in ("run", "other"):
        assert call(evaluate, "perplexity", name, "--limit", "10")[0] == 0
    scores = [scores_of(tmp_path / name) for name in ("run", "other")]
    assert scores[0].keys() == scores[1].keys()
    # Sums of 32 losses of about 4 nats, added in another order: a few units in the last place.
    np.testing.assert_allclose(
        [scores[0][key] for key in scores[0]], [scores[1][key] for key in scores[0]], rtol=1e-6
    )


def test_a_damaged_checkpoint_is_passed_over(trained, call):
    newest = max((trained / "checkpoints" / "manifests").glob("*.json"), key=lambda p: int(p.stem))
    newest.unlink()
    assert call(evaluate, "perplexity", "run", "--limit", "8")[0] == 0


SPOILT = {
    "without checkpoints": (
        lambda run: shutil.rmtree(run / "checkpoints"),
        ["run/checkpoints", "no checkpoint that is whole"],
    ),
    "of another vocabulary": (
        lambda run: edit(run, lambda record: record.update(vocab_size=300)),
        ["the model in run", "vocabulary of 300", "257"],
    ),
    "of other data": (
        lambda run: edit(run, lambda record: record["fingerprints"].update(code="0" * 64)),
        ["data of the run in run", "code: 000"],
    ),
    "of a field that is gone": (
        lambda run: edit(run, lambda record: record["config"].update(batch_sise=3)),
        ["unknown config field batch_sise", "nearest: batch_size"],
    ),
}


@pytest.mark.parametrize("name", SPOILT)
def test_a_spoilt_run_is_refused_before_anything_is_compiled(name, trained, call, compiled):
    spoil, says = SPOILT[name]
    spoil(trained)
    before = len(compiled)
    code, out, err = call(evaluate, "perplexity", "run")
    assert (code, out) == (2, "")
    assert_one_line(err, says)
    assert len(compiled) == before
    assert not (trained / "evals").exists()


def edit(run, change):
    record = json.loads((run / "model.json").read_text())
    change(record)
    (run / "model.json").write_text(json.dumps(record))


def scores_of(run):
    lines = map(json.loads, (run / "evals" / "perplexity.jsonl").read_text().splitlines())
    return {line["key"]: line["nats"] for line in lines}
