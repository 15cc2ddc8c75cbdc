"""`python -m evals gsm8k` on made-up problems and a random model, end to end and on bad input."""

import json
import os
import shlex
import signal
import time
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from evals.__main__ import main as evaluate
from evals.gsm8k import Config, DataConfig, judge, prepare, prompt
from evals.sampled_config import Task
from jlab.jobs import open_store
from jlab.sampling import gsm8k, gsm8k_subset
from jlab.training.run import Run
from jlab.training.signals import Interrupted
from tests.cli.commands import assert_one_line, parts, run, start
from tests.cli.sampled import SUMS, rows_of, word_model, write_rows
from tests.conftest import third_party_folder

JOB = (
    "gsm8k model --data.path test.jsonl --data.train train.jsonl --shots 2 --graders numeric"
    " --n-samples 12 --max-new-tokens 8 --batch 16"
)


def write_files(folder: Path) -> Path:
    """The model and the problems."""
    word_model(folder / "model")
    write_rows(folder / "test.jsonl", SUMS)
    write_rows(folder / "train.jsonl", SUMS[1:])
    return folder


@pytest.fixture
def files(tmp_path):
    return write_files(tmp_path)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, cache):
    """A folder with a run made in a process of its own, without network; stdout and stderr."""
    folder = write_files(tmp_path_factory.mktemp("finished"))
    code, out, err = run(folder, cache, "evals", *JOB.split())
    assert code == 0, err
    return folder, out, err


def summary(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text())


def test_the_command_end_to_end(finished):
    files, out, err = finished
    folder = files / "runs" / "gsm8k" / "001"
    assert err.splitlines()[-1] == "results in runs/gsm8k/001"
    assert out == (folder / "summary.md").read_text()
    assert (folder / "plots" / "coverage.png").stat().st_size > 5000
    said = summary(folder)
    rows = rows_of(folder / "samples")
    assert sorted((row["problem"], row["sample"]) for row in rows) == [
        (f"test/{problem}", number) for problem in range(3) for number in range(12)
    ]
    for problem in said["problems"]:
        gold = SUMS[int(problem["problem"].removeprefix("test/"))]["answer"]
        texts = [row["text"] for row in rows if row["problem"] == problem["problem"]]
        correct = [gsm8k.NUMERIC.extract(t) == gsm8k.NUMERIC.gold(gold) for t in texts]
        assert (problem["n"], problem["correct"]) == (12, sum(correct))
    assert 0 < sum(problem["correct"] for problem in said["problems"]) < 36
    assert said["graders"] == ["gsm8k/numeric"]
    assert said["selection"]["majority"]["mean"]
    assert said["drawn"]["tokens"] == sum(row["tokens"] for row in rows)
    assert not any("Question" in row["text"] for row in rows)
    config = json.loads((folder / "config.json").read_text())
    assert (config["evaluation"], config["config"]["temperature"]) == ("gsm8k", 0.6)
    assert "sampling 36/36  " in err
    assert "gsm8k/numeric 36/36  " in err
    assert "\x1b" not in err


def test_more_samples_and_another_grader_go_into_the_same_run(finished, files, call, monkeypatch):
    with monkeypatch.context() as stopped:
        stopped.setattr("evals.gsm8k.judge", interrupt)
        code, out, err = call(evaluate, *JOB.split(), "--n-samples", "5")
    assert (code, out) == (0, "")
    command = "python -m evals gsm8k --resume runs/gsm8k/001"
    assert err.splitlines()[-1] == f"stopped here; resume with: {command}"
    folder = files / "runs" / "gsm8k" / "001"
    before = (folder / "samples" / "0000.jsonl").read_bytes()
    assert before.count(b"\n") == 15
    words = "--resume --n-samples 12 --graders lm-eval-flexible numeric"
    code, out, err = call(evaluate, "gsm8k", *words.split())
    assert code == 0
    assert (folder / "samples" / "0000.jsonl").read_bytes().startswith(before)
    whole = finished[0] / "runs" / "gsm8k" / "001"
    texts = [
        [(row["problem"], row["sample"], row["text"]) for row in rows_of(path / "samples")]
        for path in (whole, folder)
    ]
    assert texts[0] == texts[1]
    assert "graded by gsm8k/lm-eval-flexible" in out
    assert summary(folder)["graders"] == ["gsm8k/lm-eval-flexible", "gsm8k/numeric"]
    other = folder / "graders" / "gsm8k-numeric"
    assert summary(other)["problems"] == summary(whole)["problems"]
    assert (other / "plots" / "coverage.png").exists()


def interrupt(*_arguments):
    raise Interrupted("stopped here")


def test_what_decides_the_samples_may_not_change_in_a_run(finished, call, monkeypatch):
    monkeypatch.chdir(finished[0])
    for words, says in {
        "--temperature 0.7": "sampling.temperature is 0.6 there and 0.7 here",
        "--shots 1": "prompts.shots is 2 there and 1 here",
        "--dtype bfloat16": 'model.dtype is "float32" there and "bfloat16" here',
    }.items():
        code, _, err = call(evaluate, "gsm8k", "--resume", *words.split())
        assert code == 2
        assert says in err.splitlines()[-1]


def test_a_run_that_another_process_works_in_is_refused(finished, call, monkeypatch):
    monkeypatch.chdir(finished[0])
    with Run("runs/gsm8k/001").locked():
        code, out, err = call(evaluate, "gsm8k", "--resume")
    assert (code, out) == (2, "")
    last = err.splitlines()[-1]
    assert last == "error: runs/gsm8k/001 is in use: another process runs in it"


@pytest.mark.slow
def test_a_signal_stops_the_run_which_says_how_to_go_on(files, cache):
    words = [*JOB.split(), "--n-samples", "1500", "--batch", "4"]
    process = start(files, cache, "evals", *words)
    store = files / "runs" / "gsm8k" / "001" / "samples" / "0000.jsonl"
    end = time.monotonic() + 120  # to import and compile, on a busy machine
    while not store.exists() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert process.wait() == 0, (files / "err").read_text()
    assert (
        (files / "err")
        .read_text()
        .splitlines()[-1]
        .endswith("samples drawn; resume with: python -m evals gsm8k --resume runs/gsm8k/001")
    )
    drawn = len(rows_of(store.parent))
    assert 0 < drawn < 4500


def test_a_run_of_the_training_command_is_a_model(unbroken, files, call):
    folder = parts("lm", unbroken("lm")[0])["."]
    words = f"{folder} --data.path test.jsonl --shots 0 --graders numeric --n-samples 2"
    code, out, _ = call(evaluate, "gsm8k", *words.split(), "--max-new-tokens", "4")
    assert code == 0
    assert "6 samples of " in out


@pytest.mark.parametrize("kind", ["jsonl.gz", "parquet"])
def test_data_may_be_compressed_or_parquet(kind, files, call):
    path = files / f"test.{kind}"
    if kind == "parquet":
        parquet.write_table(pyarrow.Table.from_pylist(SUMS), path)
    else:
        write_rows(path, SUMS)
    whole = prepare(Config(data=DataConfig("test.jsonl"), shots=0, graders=("numeric",)))
    same = prepare(Config(data=DataConfig(path.name), shots=0, graders=("numeric",)))
    assert same == whole


@pytest.fixture
def here(files, monkeypatch):
    monkeypatch.chdir(files)


@pytest.mark.usefixtures("here")
def test_problems_and_prompts_follow_the_papers_recipe():
    data = DataConfig("test.jsonl", "train.jsonl")
    task = prepare(Config(data=data, shots=2, graders=("numeric",)))
    chosen = gsm8k_subset(3, 2, test_rows=3, train_rows=2)
    assert task.names == [f"test/{number}" for number in chosen.test]
    shots = [(row["question"], row["answer"]) for row in SUMS[1:]]
    for text, number, shown in zip(task.prompts, chosen.test, chosen.shots, strict=True):
        assert text == prompt([shots[i] for i in shown], SUMS[number]["question"])
    fewer = prepare(Config(data=data, shots=2, graders=("numeric",), problems=2))
    assert (fewer.names, fewer.settings) == (task.names[:2], task.settings)


@pytest.mark.parametrize(("rows", "noted"), [(1319, True), (1318, False)])
def test_the_row_with_the_wrong_reference_is_left_out_beside_the_whole(rows, noted, tmp_path):
    """Of GSM8K itself, which is known by its number of rows."""
    golds = {"test/1042": "#### 3", "test/7": "#### 5", "test/8": "#### 6"}
    references = [{"gold": gold} for gold in golds.values()]
    task = Task("GSM8K", list(golds), [], references, {"rows": rows})
    with open_store(tmp_path / "samples", {}) as samples:
        for name, text in zip(golds, ("#### 3.5", "#### 5", "#### 7"), strict=True):
            row = {"problem": name, "sample": 0, "text": text}
            samples.append(samples.key(problem=name), row)
        (its,) = judge(Config(graders=("numeric",)), task, samples, tmp_path)
    assert its.facts == ({"solved_without_wrong_gold": 0.5} if noted else {})
    assert ("Test row 1042 has a wrong reference" in its.note) == noted


WRONG = [
    ("no model", "--data.path test.jsonl", "model must be a folder or a hub id"),
    ("no such model", "nowhere/ --data.path test.jsonl --shots 0 --graders numeric", "'nowhere/'"),
    ("a folder without a model", ". --data.path test.jsonl", "no config.json", "no model.json"),
    ("no tokenizer", "bare --data.path test.jsonl", "bare has no tokenizer.json"),
    ("a revision of a folder", "model --revision main", "revision is for hub ids only", "'main'"),
    ("no data", "model --graders numeric", "data.path must be a file", "nothing"),
    ("no such data", "model --graders numeric --data.path no.jsonl", "'no.jsonl'", "not there"),
    ("no shots", "model --graders numeric --data.path test.jsonl", "data.train", "--shots 0"),
    (
        "another field",
        "model --graders numeric --data.path test.jsonl --shots 0 --data.question text",
        "test.jsonl:1: no field 'text'; the record has 'question', 'answer'",
    ),
    (
        "a gold without an answer",
        "model --graders numeric --data.path gold.jsonl --shots 0",
        "gold.jsonl:2: gold must hold '#### <number>'; got 'three'",
    ),
    ("a damaged line", "model --graders numeric --data.path bad.jsonl", "bad.jsonl:2"),
    ("an empty file", "model --graders numeric --data.path none.jsonl", "none.jsonl has no rows"),
    (
        "too many shots",
        "model --graders numeric --data.path test.jsonl --data.train train.jsonl --shots 3",
        "shots must be in [0, 2]; got 3",
    ),
    ("no samples", "model --n-samples 0", "n_samples must be >= 1; got 0"),
    ("a large seed", f"model --seed {1 << 32}", "seed must be in [0, 4294967295]; got 4294967296"),
    ("a cold model", "model --temperature -1", "temperature must be >= 0 and finite; got -1"),
    ("a grader twice", "model --graders numeric numeric", "graders", "numeric numeric"),
    ("an unknown grader", "model --graders paper", "'paper'", "'authors'"),
    ("an unknown flag", "model --n-sample 3", "--n-sample;", "nearest: --n-samples"),
    ("nothing to resume", "--resume", "--resume: there is no run in runs/gsm8k"),
    ("no such run", "--resume nowhere", "nowhere is not a run folder: it has no config.json"),
    (
        "fewer samples than a run has",
        "--resume more --n-samples 5",
        "n_samples must be >= 20, which more has or was to have; got 5",
    ),
    ("a run of another evaluation", "--resume other", "a run of 'humaneval', not of 'gsm8k'"),
]


@pytest.fixture(scope="module")
def wrong(tmp_path_factory):
    folder = write_files(tmp_path_factory.mktemp("wrong"))
    (word_model(folder / "bare") / "tokenizer.json").unlink()
    write_rows(folder / "gold.jsonl", [SUMS[0], {"question": "1 + 2?", "answer": "three"}])
    (folder / "bad.jsonl").write_text(json.dumps(SUMS[0]) + "\n{\n")
    (folder / "none.jsonl").write_text("")
    (folder / "more").mkdir()
    saved = {"evaluation": "gsm8k", "config": {"model": "model", "n_samples": 20}}
    (folder / "more" / "config.json").write_text(json.dumps(saved))
    (folder / "other").mkdir()
    (folder / "other" / "config.json").write_text('{"evaluation": "humaneval"}')
    return folder


@pytest.mark.parametrize("row", WRONG, ids=lambda row: row[0].replace(" ", "-"))
def test_bad_input_ends_in_one_line(row, wrong, call, compiled, monkeypatch):
    _, words, *says = row
    monkeypatch.chdir(wrong)
    there, before = sorted(os.listdir()), len(compiled)
    code, out, err = call(evaluate, "gsm8k", *shlex.split(words))
    assert (code, out) == (2, "")
    assert_one_line(err, says)
    assert sorted(os.listdir()) == there, "nothing is written"
    assert len(compiled) == before, "nothing is compiled"


def test_the_missing_extra_of_the_authors_grader_is_named(wrong, call, monkeypatch):
    def missing(*_arguments, **_options):
        raise ImportError("grading mathematics needs the extra [math]")

    monkeypatch.setattr("jlab.sampling.Equivalence", missing)
    monkeypatch.chdir(wrong)
    words = "gsm8k model --data.path test.jsonl --graders authors"
    code, _, err = call(evaluate, *words.split())
    assert code == 2
    assert_one_line(err, ["graders: grading mathematics needs the extra [math]", "numeric do"])


def public(name: str) -> str:
    folder = third_party_folder()
    path = None if folder is None else folder / "data" / name
    if path is None or not path.exists():
        pytest.skip(f"JLAB_REFERENCE has no data/{name}")
    return str(path)


@pytest.mark.golden
def test_the_public_rows_become_prompts_that_every_grader_can_judge():
    data = DataConfig(public("gsm8k_test_subset128.jsonl"), public("gsm8k_train_0_299.jsonl"))
    task = prepare(Config(data=data, graders=("numeric", "openai", "lm-eval-strict")))
    assert len(task.names) == len(set(task.names)) == 128
    for text in task.prompts:
        assert text.count("Question: ") == text.count("\nAnswer:") == 6
        assert text.count("\n#### ") == 5
        assert text.endswith("\nAnswer:")
