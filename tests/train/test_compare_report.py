"""The comparison's table from hand-made results: signs, pairing, equal length, what it says."""

from types import SimpleNamespace

import numpy as np
import pytest

from configs.mixing_compare import SIZES
from train.compare_methods import EXTRA_RUNS, METHODS, extra_runs, extra_steps, proxy_steps
from train.compare_report import at_equal_length, compare_text, difference
from train.mixing_compare import runs_per_seed, total_steps

CONFIG = SimpleNamespace(
    loop=SimpleNamespace(steps=100), equal_compute=True, restricted=True, budget=10.0, sweep_runs=10
)


def result(stratified: float, dml: float, doge: float, longer: dict, **more) -> dict:
    """One seed: two groups whose perplexities average to the given numbers."""

    def method(average: float, runs: int, **fields) -> dict:
        return {
            "perplexity": [average - 1, average + 1],
            "mixture": [0.5, 0.5],
            "extra_runs": runs,
            "extra_steps": 100 * runs,
            **fields,
        }

    longer = {total: [value, value] for total, value in longer.items()}
    methods = {
        "stratified": method(stratified, 0),
        "dml": method(dml, 10, then_aioli=[dml - 2, dml - 2]),
        "doge": method(doge, 1, **more),
    }
    return {"groups": ["a", "b"], "methods": methods, "longer": longer}


# Seeds differ by 10 and more, methods by 1 to 3: only pairing can see it.
DONE = [
    result(50, 53, 49, {"100": 50, "200": 45, "1100": 30}),
    result(70, 72, 69, {"100": 70, "200": 64, "1100": 50}),
    result(90, 94, 89, {"100": 90, "200": 86, "1100": 71}),
]


def test_differences_are_paired_within_seeds():
    """DML - stratified: 3, 2, 4: mean 3, standard deviation 1, t(2) = 4.3027: half 2.4841."""
    found = difference(DONE, "dml")
    assert found.mean == pytest.approx(3)
    assert found.half_width == pytest.approx(2.4841, abs=1e-4)
    assert difference(DONE, "doge") == (pytest.approx(-1), pytest.approx(0, abs=1e-9))


def test_the_control_has_as_many_steps_as_the_method_in_all():
    assert at_equal_length(CONFIG, DONE, "doge").mean == pytest.approx(np.mean([4, 5, 3]))
    assert at_equal_length(CONFIG, DONE, "dml").mean == pytest.approx(np.mean([23, 22, 23]))


def test_the_text_says_what_the_intervals_say():
    text = compare_text(CONFIG, DONE)
    assert "Against stratified sampling: better: DoGE; worse: DML; not told apart: none." in text
    assert "for as many steps in all: better: none; worse: DML, DoGE; not told apart: none" in text
    row = next(line for line in text.splitlines() if line.startswith("| DoGE"))
    cells = [cell.strip() for cell in row.split("|")[1:-1]]
    assert cells[4:8] == ["-1.000 ± 0.000", "3 of 3", "1", "200"]
    assert "Aioli going on is better in 3 of 3 runs and changes the average by -2.000" in text
    assert "Equal length counts training steps" in text


def test_rounding_is_no_difference():
    same = [
        result(50 + k, 53, 50 + k - 1e-13, {"100": 50, "200": 45, "1100": 30}) for k in range(3)
    ]
    text = compare_text(CONFIG, same)
    assert "better: none" in text.split("Against stratified sampling:")[1].split(";")[0]
    assert "0 of 3" in next(line for line in text.splitlines() if line.startswith("| DoGE"))


def test_one_seed_says_nothing():
    text = compare_text(CONFIG, DONE[:1])
    assert "One seed" in text
    assert "±" not in text.split("| method")[1].split("\n\n")[0]


def test_what_counts_as_an_extra_run():
    runs = {name: extra_runs(CONFIG, name, 4) for name in METHODS}
    expected = {"grid_search": 10, "dml": 10, "regmix": 10, "skillit": 4, "skillit_static": 4}
    assert runs == {**dict.fromkeys(METHODS, 0), **expected, "doremi": 2, "doge": 1}
    assert set(EXTRA_RUNS) == {method.proxies for method in METHODS.values()}


def test_extra_runs_share_their_budget():
    half = SimpleNamespace(**{**vars(CONFIG), "budget": 0.5})
    assert [proxy_steps(half, runs) for runs in (1, 2, 4, 10)] == [50, 25, 12, 5]
    assert proxy_steps(CONFIG, 1) == 100  # never longer than the final run
    assert extra_steps(half, "skillit", 4) == 48


def test_what_a_seed_costs():
    """10 final runs, 10 of the sweep, 4 one-hot, 2 proxies; the reference is the stratified run.

    The controls take 2, 3, 5 and 11 lengths.
    """
    config = SIZES["study"]
    groups = SimpleNamespace(names=tuple("abcd"))
    assert total_steps(config, 4) == [config.loop.steps * k for k in (1, 2, 3, 5, 11)]
    assert runs_per_seed(config, groups) == 10 + 10 + 4 + 2 + (2 + 3 + 5 + 11)
