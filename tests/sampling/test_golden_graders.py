"""Graders and text functions against outputs of the authors' functions, case by case."""

import json

import pytest

from jlab.sampling import grade, gsm8k_subset
from jlab.sampling.graders import code, gsm8k, lean, math
from tests.conftest import third_party_folder
from tests.sampling.reference import entries, settings

pytestmark = pytest.mark.golden


def is_correct(grader, case, gold, equivalence) -> bool:
    return bool(grade(grader, [case["completion"]], case[gold], equivalence).correct[0])


@pytest.mark.parametrize("case", entries("gsm8k_cases", "extracted", "gold_extracted"))
def test_gsm8k_extraction(case):
    assert gsm8k.AUTHORS.extract(case["completion"]) == case["extracted"]
    assert gsm8k.AUTHORS.gold(case["gold"]) == case["gold_extracted"]


@pytest.mark.parametrize("case", entries("gsm8k_cases", "completion", "gold", "correct"))
def test_gsm8k_verdict(case, equivalence):
    assert is_correct(gsm8k.AUTHORS, case, "gold", equivalence) == case["correct"]


@pytest.mark.parametrize(
    "case", entries("gsm8k_real_model_solutions", "correct", "extracted", third_party=True)
)
def test_gsm8k_solutions_of_real_models(case, equivalence):
    assert gsm8k.AUTHORS.extract(case["completion"]) == case["extracted"]
    assert is_correct(gsm8k.AUTHORS, case, "gold", equivalence) == case["correct"]
    assert is_correct(gsm8k.NUMERIC, case, "gold", None) == case["stored_is_correct"]


def rows_of(name: str) -> list[dict]:
    folder = third_party_folder()
    path = None if folder is None else folder / "data" / name
    if path is None or not path.exists():
        pytest.skip(f"JLAB_REFERENCE has no data/{name}")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_the_rows_of_the_paper_are_the_stored_ones():
    rows = [row["index"] for row in rows_of("gsm8k_test_subset128.jsonl")]
    assert gsm8k_subset(problems=len(rows), shots=5).test == rows


@pytest.mark.parametrize("case", settings(r"gsm8k_subset(\d+)_shots(\d+)"))
def test_the_rows_of_a_released_run(case):
    key, rows = case
    ours = gsm8k_subset(problems=int(key[1]), shots=int(key[2]))
    assert ours.test == rows["test_ids"]
    assert ours.shots == rows["few_shot_train_ids"]


@pytest.mark.parametrize("case", entries("math_cases", "completion", "unnormalized", "normalized"))
def test_math_extraction(case):
    assert math.final_answer(case["completion"]) == case["unnormalized"]
    assert math.MINERVA.extract(case["completion"]) == case["normalized"]
    assert math.MINERVA.gold(case["gold_solution"]) == case["gold_normalized"]


@pytest.mark.parametrize("case", entries("math_cases", "normalized", "gold_normalized", "is_equiv"))
def test_math_equivalence(case, equivalence):
    assert equivalence(case["normalized"], case["gold_normalized"]) == case["is_equiv"]


@pytest.mark.parametrize("case", entries("math_cases", "completion", "gold_solution", "correct"))
def test_math_verdict(case, equivalence):
    assert is_correct(math.MINERVA, case, "gold_solution", equivalence) == case["correct"]


@pytest.mark.parametrize("case", entries("math_normalize", "inp", "out"))
def test_math_normal_form(case):
    assert math.normalize(case["inp"]) == case["out"]


@pytest.mark.parametrize("case", entries("math_last_boxed", "inp", "out"))
def test_math_last_box(case):
    assert math.last_boxed(case["inp"]) == case["out"]


@pytest.mark.parametrize("case", entries("outputs_match", "expected", "actual", "match"))
def test_outputs_of_programs(case):
    assert code.outputs_match(case["expected"], case["actual"]) == case["match"]


@pytest.mark.parametrize("case", entries("extract_first_code", "inp", "out"))
def test_code_in_a_text(case):
    assert code.extract_first_code(case["inp"]) == case["out"]


@pytest.mark.parametrize("case", entries("lean_proof_steps", "inp", "out"))
def test_steps_of_a_proof(case):
    assert lean.proof_steps(case["inp"]) == case["out"]


@pytest.mark.parametrize("case", entries("lean_theorem_names", "inp", "out"))
def test_names_of_theorems(case):
    assert lean.theorem_name(case["inp"]) == case["out"]


@pytest.mark.parametrize("case", entries("lean_replace_theorem_name", "inp", "name", "out"))
def test_replaced_names(case):
    assert lean.replace_theorem_name(case["inp"], case["name"]) == case["out"]
