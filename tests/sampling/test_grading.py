"""Verdicts are stored as they come, answers judged once; another grader draws no samples."""

import numpy as np
import pytest

from jlab.jobs import open_store
from jlab.sampling import Grader, grade_samples, gsm8k
from jlab.training.signals import Interrupted

TEXTS = {
    "sum": ["#### 4", "so #### 5", "#### 4.0", "none", "#### 4"],
    "product": ["#### 1,000", "#### 1000"],
}
GOLDS = {"sum": "2+2\n#### 4", "product": "10*100\n#### 1000"}


@pytest.fixture
def samples(tmp_path):
    with open_store(tmp_path / "samples", {}) as store:
        for name, texts in TEXTS.items():
            for number, text in reversed(list(enumerate(texts))):
                key = store.key(problem=name, sample=number)
                store.append(key, {"problem": name, "sample": number, "text": text})
        yield store


@pytest.fixture
def verdicts(tmp_path):
    with open_store(tmp_path / "verdicts", {}) as store:
        yield store


class Counting:
    """A grader by equal strings that counts what it is asked, and is stopped at some question."""

    def __init__(self, name="counting", stop_at=None):
        self.asked, self._stop_at = [], stop_at
        self.grader = Grader(name, str.strip, str.strip, self._same)

    def _same(self, answer, gold, _equivalence):
        if len(self.asked) == self._stop_at:
            raise Interrupted("stopped")
        self.asked.append((answer, gold))
        return answer == gold


def test_counts_and_answers_by_hand(samples, verdicts):
    graded = grade_samples(samples, verdicts, GOLDS, gsm8k.NUMERIC)
    assert list(graded) == ["product", "sum"]
    assert graded["sum"].answers == ["4", "5", "4", "[invalid]", "4"]
    np.testing.assert_array_equal(graded["sum"].correct, [True, False, True, False, True])
    np.testing.assert_array_equal(graded["product"].correct, [True, True])
    assert [row for _, row in verdicts.rows() if row["answer"] == "5"] == [
        {"problem": "sum", "sample": 1, "answer": "5", "correct": False}
    ]


def test_equal_answers_are_judged_once_and_stored_ones_never_again(samples, verdicts):
    first, second = Counting(), Counting()
    golds = {"sum": "#### 4", "product": "#### 1000"}
    grade_samples(samples, verdicts, golds, first.grader)
    assert sorted(first.asked) == sorted(
        (text, golds[name]) for name, texts in TEXTS.items() for text in set(texts)
    )
    key = samples.key(problem="sum", sample=5)
    samples.append(key, {"problem": "sum", "sample": 5, "text": "#### 4"})
    graded = grade_samples(samples, verdicts, golds, second.grader)
    assert second.asked == [], "the answer is known from other samples"
    assert graded["sum"].correct.sum() == 3


def test_grading_that_was_stopped_goes_on(samples, verdicts, monkeypatch):
    monkeypatch.setattr("jlab.sampling.grading._AT_ONCE", 2)
    unbroken = grade_samples(samples, verdicts, GOLDS, Counting("other").grader)
    with pytest.raises(Interrupted):
        grade_samples(samples, verdicts, GOLDS, Counting(stop_at=4).grader)
    stored = verdicts.count() - 7
    assert 0 < stored < 7
    rest = Counting()
    graded = grade_samples(samples, verdicts, GOLDS, rest.grader)
    assert verdicts.count() == 14
    assert len(rest.asked) < 6
    assert {name: its.answers for name, its in graded.items()} == {
        name: its.answers for name, its in unbroken.items()
    }


@pytest.mark.parametrize("change", ["grader", "gold", "version"])
def test_another_grader_judges_the_same_samples_again(change, samples, verdicts, monkeypatch):
    before = (samples.folder / "0000.jsonl").read_bytes()
    grade_samples(samples, verdicts, GOLDS, gsm8k.NUMERIC)
    golds, grader = dict(GOLDS), gsm8k.NUMERIC
    if change == "grader":
        grader = gsm8k.OPENAI
    elif change == "gold":
        golds["sum"] = "#### 5"
    else:
        monkeypatch.setattr("jlab.sampling.grading.VERSION", 3)
    graded = grade_samples(samples, verdicts, golds, grader)
    assert verdicts.count() == (12 if change == "gold" else 14)
    assert graded["sum"].correct.sum() == {"grader": 2, "gold": 1, "version": 3}[change]
    assert (samples.folder / "0000.jsonl").read_bytes() == before


def test_problems_without_a_reference_are_left_out(samples, verdicts):
    graded = grade_samples(samples, verdicts, {"sum": "#### 4"}, gsm8k.NUMERIC)
    assert list(graded) == ["sum"]
    assert verdicts.count() == 5


def test_a_reference_without_an_answer_is_refused_before_any_grading(samples, verdicts):
    with pytest.raises(ValueError, match="gold must hold '#### <number>'; got 'four'"):
        grade_samples(samples, verdicts, {**GOLDS, "sum": "four"}, gsm8k.NUMERIC)
    assert verdicts.count() == 0


def test_the_authors_grader_needs_its_equivalence(samples, verdicts, equivalence):
    with pytest.raises(ValueError, match="gsm8k/authors needs equivalence"):
        grade_samples(samples, verdicts, GOLDS, gsm8k.AUTHORS)
    graded = grade_samples(samples, verdicts, GOLDS, gsm8k.AUTHORS, equivalence)
    assert graded["sum"].answers == ["4", "5", "4.0", "[invalid]", "4"]
    np.testing.assert_array_equal(graded["sum"].correct, [True, False, True, False, True])
