"""`python -m evals humaneval` on made-up tasks and a random model, end to end and on bad input."""

import json
import os
import shlex

import pytest

from evals.__main__ import main as evaluate
from evals.humaneval import Config, DataConfig, judge, prepare
from jlab.jobs import LEVELS, Limits, humaneval_program, open_store, run_many
from jlab.jobs.pool import Supervisor
from tests.cli.commands import assert_one_line, run
from tests.cli.sampled import TASKS, rows_of, word_model, write_rows
from tests.conftest import third_party_folder

# Programs of ours, which need not be contained; 20 s of wall time, on a busy machine.
JOB = (
    "humaneval model --data.path tasks.jsonl.gz --n-samples 12 --max-new-tokens 6"
    " --require none --seconds 20 --workers 2"
)


@pytest.fixture
def files(tmp_path):
    word_model(tmp_path / "model")
    write_rows(tmp_path / "tasks.jsonl.gz", TASKS)
    return tmp_path


def program_of(task: dict, text: str):
    return humaneval_program(task["prompt"], text, task["test"], task["entry_point"])


def test_the_command_end_to_end(files, cache):
    """In a process of its own, without network."""
    code, out, err = run(files, cache, "evals", *JOB.split())
    assert code == 0, err
    folder = files / "runs" / "humaneval" / "001"
    assert out == (folder / "summary.md").read_text()
    assert (folder / "plots" / "coverage.png").stat().st_size > 5000
    said = json.loads((folder / "summary.json").read_text())
    rows = rows_of(folder / "samples")
    tasks = {task["task_id"]: task for task in TASKS}
    programs = [program_of(tasks[row["problem"]], row["text"]) for row in rows]
    ends = run_many(programs, limits=Limits(seconds=20.0), require="none")
    names = [row["problem"] for row, end in zip(rows, ends, strict=True) if end.passed]
    assert {problem["problem"]: problem["correct"] for problem in said["problems"]} == {
        name: names.count(name) for name in tasks
    }
    assert {problem["n"] for problem in said["problems"]} == {12}
    assert sum(problem["correct"] for problem in said["problems"]) > 0
    assert not any("\ndef" in row["text"] for row in rows)
    facts = said["facts"]["tests"]
    assert facts["ends"]["passed"] == sum(problem["correct"] for problem in said["problems"])
    assert sum(facts["ends"].values()) == 24
    assert facts["sandbox"]["level"] in LEVELS
    assert f"Sandbox: level {facts['sandbox']['level']} (" in out
    outcomes = rows_of(folder / "outcomes")
    assert len(outcomes) < 24, "equal programs are run once"
    assert all(set(facts["sandbox"]["layers"]) <= set(row["layers"]) for row in outcomes)


def test_a_run_may_go_on_with_fewer_tasks(files, call, monkeypatch):
    """The samples of the others stay in the store, and are neither run nor counted."""
    monkeypatch.chdir(files)
    code, _, err = call(evaluate, *JOB.split(), "--n-samples", "2")
    assert code == 0, err
    code, _, err = call(evaluate, "humaneval", "--resume", "--problems", "1")
    assert code == 0, err
    folder = files / "runs" / "humaneval" / "001"
    said = json.loads((folder / "summary.json").read_text())
    assert [problem["problem"] for problem in said["problems"]] == [TASKS[0]["task_id"]]
    assert said["drawn"]["samples"] == sum(said["facts"]["tests"]["ends"].values()) == 2
    assert len(rows_of(folder / "samples")) == 4


@pytest.fixture(scope="module")
def wrong(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wrong")
    word_model(folder / "model")
    write_rows(folder / "tasks.jsonl", TASKS)
    write_rows(folder / "twice.jsonl", [TASKS[0], TASKS[0]])
    write_rows(folder / "name.jsonl", [{**TASKS[0], "entry_point": "f(); g"}])
    write_rows(folder / "open.jsonl", [TASKS[0], {**TASKS[1], "test": "def check(f:\n"}])
    write_rows(folder / "prompt.jsonl", [{**TASKS[0], "prompt": "def f(x:\n"}])
    write_rows(folder / "tests.jsonl", [{**TASKS[0], "test": None}])
    return folder


OPEN = ("--require", "none")  # whatever this system allows
WRONG = [
    ("no data", "model", "data.path must be a file", "got nothing"),
    ("no such dtype", "model --dtype int8", "--dtype", "'int8'", "'bfloat16'"),
    ("no time", "model --seconds 0", "limits.seconds must be > 0", "0"),
    ("no memory", "model --memory 8", "limits.memory must be >= "),
    ("no tasks", "model --problems 0", "problems must be >= 1; got 0"),
    ("a task twice", "model --data.path twice.jsonl", "twice.jsonl:2", "'Made/successor' is there"),
    ("no tests", "model --data.path tests.jsonl", "tests.jsonl:1: field 'test' must be a string"),
    (
        "tests that do not compile",
        "model --data.path open.jsonl",
        "open.jsonl:2: field 'test' must be valid Python; got '(' was never closed",
    ),
    (
        "a prompt that does not compile",
        "model --data.path prompt.jsonl",
        "prompt.jsonl:1: field 'prompt' must be valid Python; got '(' was never closed",
    ),
    ("no name", "model --data.path name.jsonl", "entry_point must be a name; got 'f(); g'"),
]


@pytest.mark.parametrize("row", WRONG, ids=lambda row: row[0].replace(" ", "-"))
def test_bad_input_ends_in_one_line(row, wrong, call, compiled, monkeypatch):
    _, words, *says = row
    monkeypatch.chdir(wrong)
    there, before = sorted(os.listdir()), len(compiled)
    code, out, err = call(evaluate, "humaneval", *shlex.split(words), *OPEN)
    assert (code, out) == (2, "")
    assert_one_line(err, says)
    assert sorted(os.listdir()) == there, "nothing is written"
    assert len(compiled) == before, "nothing is compiled"


def test_a_missing_layer_is_refused_before_the_model_is_read(wrong, call, monkeypatch):
    monkeypatch.setattr(Supervisor, "layers", lambda _self: ("rlimits", "no_new_privs", "watch"))
    monkeypatch.chdir(wrong)
    code, _, err = call(evaluate, "humaneval", "model", "--data.path", "tasks.jsonl")
    assert code == 2
    assert_one_line(err, ["require: the sandbox refuses level 'namespace'", "active: rlimits"])
    assert "reading" not in err


@pytest.mark.golden
def test_canonical_solutions_of_public_tasks_are_correct(tmp_path):
    folder = third_party_folder()
    paths = sorted((folder / "data").glob("humaneval*.jsonl")) if folder else []
    if not paths:
        pytest.skip("JLAB_REFERENCE has no data/humaneval*.jsonl")
    config = Config(data=DataConfig(str(paths[0])), require="none", problems=12, seconds=20.0)
    task = prepare(config)
    solutions = map(json.loads, paths[0].read_text().splitlines())
    with open_store(tmp_path / "samples", {}) as samples:
        for row in list(solutions)[:12]:
            for number, text in enumerate([row["canonical_solution"], "    return None\n"]):
                name = row["task_id"]
                key = samples.key(problem=name, sample=number)
                samples.append(key, {"problem": name, "sample": number, "text": text})
        (verdicts,) = judge(config, task, samples, tmp_path)
    assert sorted(verdicts.graded) == sorted(task.names)
    assert all(its.correct.tolist() == [True, False] for its in verdicts.graded.values())
