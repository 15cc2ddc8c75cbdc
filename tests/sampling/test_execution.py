"""Programs of samples run in the sandbox: counts by hand, equal ones once, layers reported."""

import numpy as np
import pytest

from jlab.jobs import LAYERS, Limits, active_layers, humaneval_program, open_store
from jlab.jobs.pool import Supervisor
from jlab.sampling import grade_programs

HEAD = "def f(x):\n"
TESTS = {
    name: f"def check(f):\n    assert f(1) == {value}\n"
    for name, value in {"add": 2, "sub": 0}.items()
}
UP, DOWN = "    return x + 1\n", "    return x - 1\n"
TEXTS = {"add": [UP, DOWN, UP, "    return (\n"], "sub": [DOWN, UP]}
LIMITS = Limits(seconds=20.0)  # of wall time, on a busy machine


def program(name, text):
    return humaneval_program(HEAD, text, TESTS[name], "f")


@pytest.fixture
def samples(tmp_path):
    with open_store(tmp_path / "samples", {}) as store:
        for name, texts in TEXTS.items():
            for number, text in enumerate(texts):
                key = store.key(problem=name, sample=number)
                store.append(key, {"problem": name, "sample": number, "text": text})
        yield store


def graded(samples, folder, **options):
    with open_store(folder, {}) as outcomes:
        # Programs of ours, which need not be contained.
        options = {"limits": LIMITS, "require": "none", "workers": 1, **options}
        return grade_programs(samples, outcomes, program, **options), outcomes.count()


def test_outcomes_by_hand_and_equal_programs_run_once(samples, tmp_path, capsys):
    done, count = graded(samples, tmp_path / "outcomes")
    assert done.graded["add"].answers == ["passed", "failed", "passed", "syntax error"]
    np.testing.assert_array_equal(done.graded["add"].correct, [True, False, True, False])
    np.testing.assert_array_equal(done.graded["sub"].correct, [True, False])
    assert count == 5
    assert set(done.layers) == set(active_layers())
    assert set(done.layers) <= set(LAYERS)
    assert "running 5/5  " in capsys.readouterr().err


def test_only_the_problems_that_are_asked_for_are_run(samples, tmp_path):
    done, count = graded(samples, tmp_path / "outcomes", names=["sub"])
    assert {name: its.answers for name, its in done.graded.items()} == {"sub": ["passed", "failed"]}
    assert count == 2


def test_what_was_run_is_not_run_again_but_under_other_limits(samples, tmp_path, monkeypatch):
    monkeypatch.setattr("jlab.sampling.execution._AT_ONCE", 4)  # several lots
    first, _ = graded(samples, tmp_path / "outcomes")
    with monkeypatch.context() as without:
        without.setattr(Supervisor, "start", None)  # so that running anything fails
        again, count = graded(samples, tmp_path / "outcomes")
    assert again.layers == first.layers
    assert {name: its.answers for name, its in again.graded.items()} == {
        name: its.answers for name, its in first.graded.items()
    }
    _, more = graded(samples, tmp_path / "outcomes", limits=Limits(seconds=19.0))
    assert (count, more) == (5, 10)


def test_a_missing_layer_is_refused_and_nothing_is_run(samples, tmp_path, monkeypatch):
    monkeypatch.setattr(Supervisor, "layers", lambda _self: ("rlimits",))
    with pytest.raises(PermissionError, match="the sandbox refuses level 'namespace': no layer"):
        graded(samples, tmp_path / "outcomes", require="namespace")
    assert not list((tmp_path / "outcomes").glob("*.jsonl"))
