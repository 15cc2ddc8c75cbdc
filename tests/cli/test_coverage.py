"""`python -m evals coverage` on tables, folders of evaluations and runs of `train arithmetic`."""

import json
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from evals.__main__ import main as evaluate
from evals.coverage_inputs import read_subject
from evals.coverage_report import Answers, write_report
from jlab.hub import save_hf
from jlab.nn import Transformer, llama
from jlab.nn.count import count_params
from tests.cli.commands import assert_one_line, run

HEAD = "problem,n,correct\n"
N = 100  # samples of each problem: one size of grid, so that the fit is compiled once


def counts(seed: int, problems: int = 24) -> np.ndarray:
    random = np.random.default_rng(seed)
    return random.binomial(N, random.beta(0.3, 3, problems))


def table(correct: np.ndarray) -> str:
    return HEAD + "".join(f"q{i},{N},{c}\n" for i, c in enumerate(correct))


def test_a_table_becomes_a_report_in_a_process_of_its_own(tmp_path, cache):
    (tmp_path / "mine.csv").write_text(table(counts(0)))
    code, out, err = run(tmp_path, cache, "evals", "coverage", "mine.csv")
    assert code == 0, err
    folder = tmp_path / "runs/coverage/001"
    assert (folder / "summary.md").read_text() == out
    assert (folder / "plots/coverage.png").read_bytes().startswith(b"\x89PNG")
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["curve"]["coverage"][0] == pytest.approx(counts(0).mean() / N)
    assert summary["curve"]["coverage"][-1] == pytest.approx(np.mean(counts(0) > 0))
    assert set(json.loads((folder / "config.json").read_text())) >= {"config", "environment"}
    assert "c(k) = exp(a k^b) with a = " in out
    assert "forecast from 10" in out


def tables_of_other_tools() -> list:
    """The same counts as other programs write them; name, content, further words."""
    correct = counts(0).tolist()
    rows = [{"problem": f"q{i}", "n": N, "correct": c} for i, c in enumerate(correct)]
    other = [{"task_id": f"q{i}", "total": N, "passed": c} for i, c in enumerate(correct)]
    columns = ["--columns", "task_id", "total", "passed"]
    samples = [
        {"task_id": f"q{i}", "completion": "x", "passed": s < c}
        for i, c in enumerate(correct)
        for s in range(N)
    ]
    lines = "".join(json.dumps(row) + "\n" for row in samples)
    return [
        ("a.csv", table(counts(0)), []),
        ("a.json", json.dumps(rows, indent=1), []),
        ("a.json", json.dumps({"problems": rows}), []),
        ("a.jsonl", "".join(json.dumps(row) + "\n" for row in rows), []),
        ("a.json", json.dumps(other), columns),
        ("a.jsonl", lines, ["--columns", "task_id", "", "passed"]),
    ]


@pytest.mark.parametrize(("name", "content", "words"), tables_of_other_tools())
def test_tables_of_other_tools_are_read(name, content, words, tmp_path):
    (tmp_path / name).write_text(content)
    found = read_subject(str(tmp_path / name), *([words[1:]] if words else []))
    assert (found.label, found.names) == ("a", [f"q{i}" for i in range(24)])
    assert found.n.tolist() == [N] * 24
    assert found.correct.tolist() == counts(0).tolist()


BAD = [
    ("a.csv", "problem,n\nq,3\n", "a.csv:2: there is no column 'correct'; it has problem, n"),
    ("a.csv", HEAD + "q,3,4\n", "a.csv:2: correct must be in [0, n = 3]; got 4"),
    ("a.csv", HEAD + "q,3,-1\n", "a.csv:2: correct must be in [0, n = 3]; got -1"),
    ("a.csv", HEAD + "q,3,nan\n", "a.csv:2: correct must be a whole number; got 'nan'"),
    ("a.csv", HEAD + "q,3,1.5\n", "a.csv:2: correct must be a whole number; got '1.5'"),
    ("a.csv", HEAD + "q,,1\n", "a.csv:2: n must be a whole number; got ''"),
    ("a.csv", HEAD + "q,0,0\n", "problem q: n must be at least 1; got 0"),
    ("a.csv", HEAD + "q,1e30,0\n", "problem q: n must be below 1,000,000,000; got 1e+30"),
    ("a.csv", HEAD + "q,1e12,7\n", "problem q: n must be below 1,000,000,000; got 1000000000000"),
    ("a.json", f'[{{"problem": 1, "n": 1{"0" * 400}, "correct": 1}}]', "n must be a whole number"),
    ("a.csv", HEAD + "q,3,1\nq,3,2\n", "a.csv:3: problem q is there twice"),
    ("a.csv", HEAD, "table a.csv is empty"),
    ("a.json", "[]", "table a.json is empty"),
    ("a.json", "[3]", "a.json: row 1 must be an object; got 3"),
    ("a.jsonl", '{"problem": 1, "n": NaN, "correct": 1}\n', "n must be a whole number; got nan"),
    ("a.jsonl", '{"problem": 1, "n": true, "correct": 1}\n', "n must be a whole number; got True"),
    ("a.jsonl", "{\n", "a.jsonl:1: not a JSON object per line"),
    ("a.txt", "x", "table a.txt must end in .csv, .jsonl, .json"),
    ("a/b", None, "a/b is neither a file nor a folder"),
    ("a.csv", table(counts(0)), "costs must be a price"),
    (".", None, ". has no counts: it must be a finished run"),
]


@pytest.mark.parametrize(("name", "content", "says"), BAD, ids=lambda x: str(x)[:30])
def test_a_bad_table_is_refused_in_one_line(name, content, says, call, tmp_path):
    if content is not None:
        (tmp_path / name).write_text(content)
    words = ["--costs", "cheap"] if "costs" in says else []
    code, out, err = call(evaluate, "coverage", name, *words)
    assert (code, out) == (2, "")
    assert_one_line(err, [says])
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("1e400,2,3,4,5", "costs must be a price, PARAMS"),
        ("8.5,2,3,4,5", "costs must be a price, PARAMS"),
        ("1e308,2,3,4,5", "costs must be positive and below 1e+100; got 1e308,2,3,4,5"),
        ("8,2,3,1e200,5", "costs must be positive and below 1e+100"),
        ("1e400", "costs must be positive and below 1e+100; got 1e400"),
        ("nan", "costs must be positive and below 1e+100; got nan"),
        ("0", "costs must be positive and below 1e+100; got 0"),
    ],
)
def test_a_bad_cost_is_refused_in_one_line(text, says, call, tmp_path):
    (tmp_path / "a.csv").write_text(table(counts(0)))
    code, out, err = call(evaluate, "coverage", "a.csv", "--costs", text)
    assert (code, out) == (2, "")
    assert_one_line(err, [says])


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--n-samples", "0"], "n_samples must be >= 1; got 0"),
        (["--costs", "1", "2"], "costs must be one per subject, 1; got 2"),
        (["--columns", "", "n", "c"], "columns must name problem and correct"),
        (["--sample", "3"], "unknown flag --sample; nearest: --n-samples"),
    ],
)
def test_bad_fields_are_refused_in_one_line(words, says, call, tmp_path):
    code, _, err = call(evaluate, "coverage", "a.csv", *words)
    assert code == 2
    assert_one_line(err, [says])
    assert list(tmp_path.iterdir()) == []


def test_several_subjects_are_shifted_onto_one_another_and_compared_at_equal_cost(call, tmp_path):
    easy, hard = counts(1), counts(1) // 4
    (tmp_path / "big.csv").write_text(table(easy))
    (tmp_path / "small.csv").write_text(table(hard))
    words = ("big.csv", "small.csv", "--costs", "0.04", "0.01", "--out", "both")
    code, out, err = call(evaluate, "coverage", *words)
    assert code == 0, err
    summary = json.loads(Path("both/summary.json").read_text())
    assert summary["family"]["target"] == pytest.approx(easy.mean() / N)
    assert summary["family"]["k"]["big"] == 1 < summary["family"]["k"]["small"]
    assert {p.name for p in Path("both/plots").iterdir()} == {
        "coverage.png",
        "family.png",
        "cost.png",
    }
    assert "# At equal price" in out
    line = next(x for x in out.splitlines() if x.startswith("| 0.01 "))
    assert line.split(" | ")[-1].strip(" |") == "small", "the large one cannot afford a sample"


def test_flops_come_from_sizes_or_from_the_folder_of_a_model(call, tmp_path):
    config = llama(d_model=16, layers=1, heads=2, d_ff=24, vocab_size=11)
    save_hf(
        tmp_path / "model",
        config,
        Transformer(config).init(jax.random.key(0), jnp.array([[1]]))["params"],
    )
    (tmp_path / "a.csv").write_text(table(counts(1)))
    cost = {}
    for name, text in {"size": f"{count_params(config)},1,16,5,7", "folder": "model,5,7"}.items():
        code, _, err = call(evaluate, "coverage", "a.csv", "--costs", text, "--out", name)
        assert code == 0, err
        cost[name] = json.loads(Path(name, "summary.json").read_text())["costs"]
    assert cost["size"] == cost["folder"]
    assert cost["size"]["unit"] == "FLOPs"


def test_the_folder_of_an_evaluation_is_a_subject(call, tmp_path):
    right = np.random.default_rng(0).random((12, N)) < 0.2
    given = np.where(right, "yes", "no")
    names = [f"q{i}" for i in range(12)]
    n = np.full(12, N)
    text = write_report(
        tmp_path / "runs/gsm8k/001",
        names,
        n,
        right.sum(1),
        title="x",
        answers=Answers(given, right),
    )
    assert "Majority vote of very many samples: 0.0000" in text
    code, out, err = call(evaluate, "coverage", "runs/gsm8k/001")
    assert code == 0, err
    assert "# Coverage: gsm8k/001" in out
    summary = json.loads(Path("runs/coverage/001/summary.json").read_text())
    assert [row["correct"] for row in summary["problems"]] == right.sum(1).tolist()


@pytest.mark.parametrize("there", [False, True])
def test_without_a_subject_a_run_is_trained_or_finished_first(there, call, monkeypatch, tmp_path):
    """The training itself is another process; here it is one that ends early."""
    commands = []

    def refuse(words, **_):
        commands.append(words[1:])
        return SimpleNamespace(returncode=1)

    monkeypatch.setattr("evals.coverage_run.subprocess.run", refuse)
    if there:  # it was stopped before its summary was written
        (tmp_path / "runs/arithmetic/003").mkdir(parents=True)
        (tmp_path / "runs/arithmetic/003/config.json").write_text("{}")
    code, _, err = call(evaluate, "coverage")
    assert code == 2
    assert err.splitlines()[-1].endswith("is not finished; call this again to go on with it")
    words = ["--resume", "runs/arithmetic/003"] if there else []
    assert commands == [["-m", "train", "arithmetic", *words]]


def test_results_of_another_command_are_not_written_over(call, tmp_path):
    (tmp_path / "a.csv").write_text(table(counts(0)))
    (tmp_path / "config.json").write_text('{"evaluation": "gsm8k"}')
    code, _, err = call(evaluate, "coverage", "a.csv", "--out", ".")
    assert code == 2
    assert_one_line(err, ["out: . has other results"])
    assert {path.name for path in tmp_path.iterdir()} == {"a.csv", "config.json"}
