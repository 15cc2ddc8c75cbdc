"""Every canonical solution of HumanEval passes its own check, and nothing else of them does."""

import json

import pytest

from jlab.jobs import humaneval_program, run_many
from tests.conftest import third_party_folder


def tasks() -> list[dict]:
    """Rows of `data/humaneval*.jsonl`, in the files' order."""
    folder = third_party_folder()
    paths = sorted((folder / "data").glob("humaneval*.jsonl")) if folder else []
    return [json.loads(line) for path in paths for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def canonical():
    """Outcome of each task's canonical solution."""
    programs = [solved(task, task["canonical_solution"]) for task in tasks()]
    outcomes = run_many(programs, require="none")
    return {task["task_id"]: outcome for task, outcome in zip(tasks(), outcomes, strict=True)}


def solved(task: dict, completion: str):
    return humaneval_program(task["prompt"], completion, task["test"], task["entry_point"])


@pytest.mark.golden
@pytest.mark.skipif(not tasks(), reason="no folder of reference data with data/humaneval*.jsonl")
@pytest.mark.parametrize("task", tasks(), ids=lambda task: task["task_id"])
def test_a_canonical_solution_passes(canonical, task):
    outcome = canonical[task["task_id"]]
    assert outcome.passed, outcome


@pytest.mark.golden
@pytest.mark.skipif(not tasks(), reason="no folder of reference data with data/humaneval*.jsonl")
def test_completions_that_forge_the_check_pass_no_task():
    forged = """    class Yes(int):
        def __eq__(self, other): return True
        __ne__ = __lt__ = __gt__ = __le__ = __ge__ = __eq__
        __hash__ = int.__hash__
    return Yes()

def check(candidate): pass
"""
    outcomes = run_many([solved(task, forged) for task in tasks()[:20]], require="none")
    assert [outcome.status for outcome in outcomes if outcome.passed] == []
