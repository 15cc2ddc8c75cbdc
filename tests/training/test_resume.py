"""A run killed anywhere goes on bit for bit; what an online method drew can be drawn again."""

from dataclasses import replace

import numpy as np
import pytest

from jlab.data import MixtureLoader
from jlab.mixing import schedule
from jlab.training import Interrupted
from tests.training.runs import MIXERS, assert_same_bits, killed, play, rows

STEPS = 13
# Every place in a round of Aioli (see MIXERS): in a probe, between two, where A is learned, where a
# round ends, and the evaluations of every fifth step. Mixers without rounds: a few will do.
AIOLI = [1, 2, 4, 5, 6, 7, 10, 12]
PLACES = {
    "stratified": [5],
    "static": [1],
    "schedule": [3, 4, 9],
    "aioli": AIOLI,
    "aioli, probes only": [4, 5, 8],
    "aioli, prior": [3, 4],
}


@pytest.fixture(scope="module")
def unbroken(bench, tmp_path_factory):
    """Folder and end of an unbroken run of each mixer, which keeps the checkpoints of all steps."""
    made = {}

    def run(name):
        if name not in made:
            folder = tmp_path_factory.mktemp("unbroken")
            made[name] = folder, play(bench, MIXERS[name], folder)
        return made[name]

    return run


@pytest.mark.parametrize(("name", "step"), [(n, s) for n, steps in PLACES.items() for s in steps])
def test_a_run_killed_after_any_checkpoint_goes_on_bit_for_bit(
    bench, unbroken, tmp_path, name, step
):
    whole, end = unbroken(name)
    folder = killed(whole, step, tmp_path)
    loop = replace(bench.config.loop, checkpoint_every=0)  # saves change no number
    assert_same_bits(play(bench, MIXERS[name], folder, loop), end)
    assert rows(folder) == rows(whole)


def test_a_run_killed_before_its_first_checkpoint_starts_anew(bench, unbroken, tmp_path):
    whole, end = unbroken("aioli")
    (tmp_path / "metrics.jsonl").write_text((whole / "metrics.jsonl").read_text()[:500])
    loop = replace(bench.config.loop, checkpoint_every=0)
    assert_same_bits(play(bench, MIXERS["aioli"], tmp_path, loop), end)
    assert rows(tmp_path) == rows(whole)


def test_a_finished_run_trains_no_further(bench, unbroken, tmp_path):
    whole, end = unbroken("stratified")
    folder = killed(whole, STEPS, tmp_path)

    def no_step(state, batch):
        raise AssertionError("a step was taken")

    assert_same_bits(play(bench, MIXERS["stratified"], folder, step=no_step), end)
    assert rows(folder) == rows(whole)


@pytest.mark.parametrize("name", ["aioli", "aioli, probes only", "aioli, prior"])
def test_the_logged_plans_replay_an_online_run_bit_for_bit(bench, unbroken, tmp_path, name):
    whole, end = unbroken(name)
    plans = [row for row in rows(whole) if "plan" in row]
    replay = schedule([row["step"] for row in plans], [row["plan"]["proportions"] for row in plans])
    loop = replace(bench.config.loop, checkpoint_every=0)
    again = play(bench, replay, tmp_path, loop)
    assert_same_bits(again.train, end.train)
    assert_same_bits(again.data, end.data)
    losses = [[row for row in rows(f) if "loss" in row] for f in (tmp_path, whole)]
    assert losses[0] == losses[1]


@pytest.mark.parametrize("name", MIXERS)
def test_what_is_drawn_follows_the_plan_within_one_window_and_never_repeats(bench, unbroken, name):
    whole, end = unbroken(name)
    target, drawn, seen, plan = np.zeros(2), np.zeros(2), set(), None
    for row in rows(whole):
        plan = row.get("plan", plan)
        if "batch" not in row:
            continue
        group, ids = row["batch"]["group"], row["batch"]["ids"]
        target += 4 * np.array(plan["proportions"])
        drawn += np.bincount(group, minlength=2)
        # The loader's credits stay within (m - 1) / 2 for m = 2 groups; 1e-9: sums in float64.
        assert np.abs(target - drawn).max() <= 0.5 + 1e-9
        assert not seen & set(zip(group, ids, strict=True))  # no group is through once
        seen |= set(zip(group, ids, strict=True))
    assert len(seen) == STEPS * 4
    np.testing.assert_array_equal(end.data.drawn, drawn)


def test_lines_for_each_step_come_with_their_plan(unbroken):
    """Probes of 2 steps; A is learned when both are through; then 2 steps on the new p."""
    lines = rows(unbroken("aioli")[0])
    plans = [(row["step"], row["plan"]["steps"]) for row in lines if "plan" in row]
    starts = [0, 0, 2, 4, 6, 8, 10, 12]
    assert plans == list(zip(starts, [0, 2, 2, 2, 2, 2, 2, 2], strict=True))
    learned = [row["step"] for row in lines if row.get("mixing/round_learned")]
    assert learned == [4, 10]
    evaluated = [row["step"] for row in lines if "eval/loss" in row]
    assert evaluated == [0, 2, 4, 5, 6, 8, 10, 12]  # 10: for the plan and by schedule, once
    assert [row["step"] for row in lines if "loss" in row] == list(range(1, STEPS + 1))


def test_the_logged_mixture_is_the_plan_to_the_last_bit(unbroken):
    """Not cut to float32: between probes the method trains on just these proportions."""
    lines = [row for row in rows(unbroken("aioli")[0]) if "plan" in row]
    (after,) = (row for row in lines if row["step"] == 4)
    assert after["mixture"] == after["plan"]["proportions"]
    assert after["mixture"] != [0.5, 0.5]


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM"])
def test_a_signal_saves_the_step_and_the_run_goes_on_bit_for_bit(bench, unbroken, tmp_path, number):
    import signal

    whole, end = unbroken("aioli")
    loop = replace(bench.config.loop, checkpoint_every=0)

    def step(state, batch):
        if int(state.step) == 2:
            signal.raise_signal(getattr(signal, number))
        return bench.job.step(state, batch)

    with pytest.raises(Interrupted, match=r"^stopped at step 3$"):
        play(bench, MIXERS["aioli"], tmp_path, loop, step=step)
    assert [p.name for p in (tmp_path / "checkpoints/manifests").iterdir()] == ["3.json"]
    assert_same_bits(play(bench, MIXERS["aioli"], tmp_path, loop), end)
    assert rows(tmp_path) == rows(whole)


def test_the_order_of_the_data_does_not_depend_on_prefetching(bench, unbroken, tmp_path):
    _, end = unbroken("schedule")
    loader = MixtureLoader(bench.groups.train, 4, bench.config.seed, prefetch=1, workers=1)
    loop = replace(bench.config.loop, checkpoint_every=0)
    assert_same_bits(play(bench, MIXERS["schedule"], tmp_path, loop, loader=loader), end)
