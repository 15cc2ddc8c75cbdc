"""The report of an evaluation by sampling: numbers planted, then found in text and summary."""

import json

import numpy as np
import pytest

from evals.coverage_report import Answers, analyse, check_counts, study_counts, write_report

N, PROBLEMS = 100, 24
NAMES = [f"q{i}" for i in range(PROBLEMS)]


def planted() -> tuple[np.ndarray, Answers]:
    """Right samples answer 0; wrong ones spread over others; scores prefer right ones a little."""
    random = np.random.default_rng(0)
    right = random.random((PROBLEMS, N)) < random.beta(0.5, 2, PROBLEMS)[:, None]
    given = np.where(right, 0, 1 + random.geometric(0.2, right.shape))
    return right, Answers(given, right, right + random.normal(0, 2, right.shape))


def test_summary_text_and_plot_tell_one_story(tmp_path):
    right, answers = planted()
    n = np.full(PROBLEMS, N)
    text = write_report(tmp_path / "out", NAMES, n, right.sum(1), title="Toy", answers=answers)
    assert (tmp_path / "out/summary.md").read_text() == text
    assert (tmp_path / "out/plots/coverage.png").read_bytes().startswith(b"\x89PNG")
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert summary["problems"][3] == {"problem": "q3", "n": N, "correct": int(right[3].sum())}
    curve = summary["curve"]
    assert curve["coverage"][0] == pytest.approx(right.mean(), rel=1e-12)
    assert f"| 1   | {right.mean():.4f}" in text
    law = summary["law"]
    assert law["b"]["low"] < law["b"]["value"] < law["b"]["high"]
    assert summary["verdict"] in text
    assert [x["k"] for x in summary["beyond"]["forecast"]] == [10 * N, 100 * N]
    chosen = summary["selection"]
    assert chosen["k"][-1] == N
    # All samples are one subset: the vote is the mode, and the best of all the best score.
    modes = [
        right[i][answers.given[i] == np.bincount(row).argmax()]
        for i, row in enumerate(answers.given)
    ]
    assert chosen["majority"]["mean"][-1] == pytest.approx(np.mean([m.any() for m in modes]))
    best = right[np.arange(PROBLEMS), answers.scores.argmax(1)].mean()
    assert chosen["best_of_n"][-1] == pytest.approx(best)
    distinct = np.mean([len(np.unique(row)) for row in answers.given])
    assert chosen["distinct"][-1] == pytest.approx(distinct)
    assert chosen["distinct"][0] == pytest.approx(1)


def test_a_forecast_by_a_tenth_of_the_samples_comes_close_where_rates_are_beta():
    random = np.random.default_rng(1)
    n = np.full(2000, N)
    correct = random.binomial(N, random.beta(0.4, 3, len(n)))
    few = analyse(list(range(len(n))), n, correct, study_counts(n, correct))["few"]
    assert few["samples"] == 10
    curve = study_counts(n, correct).coverage
    # 2000 problems x 10 samples: the curve is known to about 1 / sqrt(2000) = 0.02.
    assert np.abs(np.array(few["predicted"]) - curve).max() < 0.05


def test_problems_with_more_samples_than_others_are_used_up_to_the_fewest(tmp_path):
    n, correct = np.array([100, 300, 200]), np.array([1, 30, 200])
    text = write_report(tmp_path, list("abc"), n, correct, title="Unequal")
    assert "samples of each: 100 to 300" in text
    assert "Curves end at 100" in text
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["curve"]["coverage"][0] == pytest.approx(np.mean(correct / n))
    assert summary["curve"]["k"][-1] == 100


@pytest.mark.parametrize(
    ("n", "correct"), [([1, 1], [0, 1]), ([5, 5], [0, 0]), ([5, 7], [5, 7]), ([1], [1])]
)
def test_counts_without_a_law_still_make_a_report(n, correct, tmp_path):
    text = write_report(tmp_path, list("ab")[: len(n)], np.array(n), np.array(correct), title="x")
    assert "No law is fitted" in text
    assert (tmp_path / "plots/coverage.png").exists()


@pytest.mark.parametrize(("n", "correct"), [([100], [3]), ([10], [3]), ([10, 10], [0, 0])])
def test_without_an_interval_there_is_a_dash_and_a_reason(n, correct, tmp_path):
    text = write_report(tmp_path, list("ab")[: len(n)], np.array(n), np.array(correct), title="x")
    first = next(line for line in text.splitlines() if line.startswith("| 1 "))
    assert first.split("|")[3].strip() == "-"
    assert ("One problem gives no interval" if len(n) == 1 else "No problem is solved") in text
    assert not [x for x in ("nan", "(95 % intervals", "(90 % intervals", " - and b") if x in text]
    summary = (tmp_path / "summary.json").read_text()
    assert "NaN" not in summary
    assert set(json.loads(summary)["curve"]["low"]) == {None}


@pytest.mark.parametrize(
    ("names", "n", "correct", "message"),
    [
        (["a"], [3], [4], r"problem a: correct must be a whole number in \[0, n\]; got 4 of 3"),
        (["a"], [3], [0.5], "problem a: correct must be a whole number"),
        (["a"], [np.nan], [0], "problem a: correct must be a whole number"),
        (["a"], [10**30], [0], "problem a: n must be below 1,000,000,000; got 1e\\+30"),
        (["a"], [10**9], [10**9], "problem a: n must be below 1,000,000,000; got 1000000000"),
        (["a"], [0], [0], "problem a: n must be at least 1; got 0"),
        ([], [], [], "there must be at least one problem"),
        (["a"], [3, 3], [1, 1], "must be equally long; got 1, 2 and 2"),
    ],
)
def test_counts_that_are_none_are_refused(names, n, correct, message):
    with pytest.raises(ValueError, match=message):
        check_counts(names, np.array(n), np.array(correct))


def test_answers_and_grades_must_be_equally_many(tmp_path):
    answers = Answers([["1", "2"], ["1"]], [[True, False], [True, True]])
    with pytest.raises(ValueError, match="answers: problem 1 must have as many grades"):
        write_report(tmp_path, ["a", "b"], [2, 2], [1, 2], title="x", answers=answers)
