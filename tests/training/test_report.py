"""What a run says: tables, numbers with their spread, the files of its folder, its progress."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from jlab.training import GroupLosses, Run, report
from jlab.training.report import markdown_table, mean_and_spread, skipped_note
from jlab.training.run import ProgressLine, tell_stages


def test_a_table_is_padded_so_that_its_columns_stand_below_each_other():
    table = markdown_table(["group", "x"], [["a", 1], ["longer one", "0.123"]])
    assert table == (
        "| group      | x     |\n"
        "|------------|-------|\n"
        "| a          | 1     |\n"
        "| longer one | 0.123 |\n"
    )
    assert len({len(line) for line in table.splitlines()}) == 1


def test_a_row_must_have_a_cell_for_every_column():
    with pytest.raises((ValueError, IndexError)):
        markdown_table(["a", "b"], [["1"]])


def test_a_spread_is_given_where_there_are_several_seeds():
    """1, 2, 3: mean 2, standard deviation sqrt((1 + 0 + 1) / 2) = 1."""
    assert mean_and_spread([1.23456]) == "1.235"
    assert mean_and_spread([1, 2, 3]) == "2.000 ± 1.000"


def test_a_summary_turns_losses_into_perplexity_and_bits_per_byte():
    """Loss ln 8: perplexity 8; ln 4 nats per token of 2 bytes: 2 bits / 2 bytes = 1."""
    losses = GroupLosses(np.log([8.0, 2.0]), np.log([4.0, 2.0]), np.array([3.0, 5.0]))
    trained = SimpleNamespace(
        evaluate=lambda split, windows: {("test", 7): losses}[split, windows],
        groups=SimpleNamespace(
            names=("a", "b"), bytes_per_token=lambda split: {"test": np.array([2.0, 4.0])}[split]
        ),
    )
    summary = report.test_summary(trained, 7)
    assert summary["perplexity"] == pytest.approx([8, 2])
    assert summary["bits_per_byte"] == pytest.approx([1, 0.25])
    assert summary["loss"] == pytest.approx([np.log(8), np.log(2)])
    assert (summary["groups"], summary["windows"]) == (["a", "b"], [3.0, 5.0])
    json.dumps(summary)


def test_a_run_folder_has_its_files_whole(tmp_path):
    run = Run(tmp_path / "runs/x/001", "x")
    assert not run.started()
    assert run.result() is None
    run.write_config({"a": 1})
    run.write_result({"loss": 0.5})
    run.write_summary({"b": 2}, "text\n")
    assert json.loads((run.path / "config.json").read_text()) == {"a": 1}
    assert run.result() == {"loss": 0.5}
    assert json.loads((run.path / "summary.json").read_text()) == {"b": 2}
    assert (run.path / "summary.md").read_text() == "text\n"
    assert not list(run.path.glob("*.partial"))


def test_a_part_is_bound_to_the_settings_that_made_it(tmp_path):
    run = Run(tmp_path)
    run.settings = "0a1b"
    part = run.child("proxy")
    part.write_result({"loss": 0.5})
    assert part.result() == {"loss": 0.5}
    run.settings = "ffff"
    with pytest.raises(ValueError, match=r"proxy was made with other settings than config.json"):
        run.child("proxy").result()
    assert Run(tmp_path / "proxy").result() == {"loss": 0.5}  # whoever has no settings may read


def test_a_line_has_its_numbers_and_below_time_what_depends_on_the_clock(tmp_path):
    run = Run(tmp_path)
    run.open_log(None)
    run.log(1, {"loss": 2.0}, {"tokens_per_second": 9.0, "mfu": None})
    run.close_log()
    run.log(2, {"loss": 1.0})  # closed: nothing is written
    (row,) = run.rows()
    seconds = row.pop("time")
    assert row == {"step": 1, "loss": 2.0}
    assert seconds["tokens_per_second"] == 9.0
    assert seconds["mfu"] is None
    assert {"clock", "elapsed", "data", "step", "evaluate", "checkpoint", "other"} < seconds.keys()
    assert run.started()


def test_a_new_log_takes_the_place_of_an_old_one(tmp_path):
    for steps, resume_at in ((3, None), (1, None), (1, 0)):
        run = Run(tmp_path)
        run.open_log(resume_at)
        for step in range(steps):
            run.log(step, {"loss": 1.0})
        run.close_log()
    assert [row["step"] for row in run.rows()] == [0, 0]


def test_a_part_of_a_run_tells_its_failures_to_the_whole(tmp_path):
    run = Run(tmp_path, "aioli")
    part = run.child("seed-1")
    part.failures.append("disk full")
    assert run.failures == ["disk full"]
    assert (part.path, part.title) == (tmp_path / "seed-1", "aioli seed-1")


def test_progress_is_one_plain_line_where_nobody_watches(tmp_path, capsys):
    line = ProgressLine(Run(tmp_path, "lm"), total=20, done=4)
    speed = line.speed(9, 100, 2.0)
    assert speed == 250  # 5 steps of 100 tokens in 2 s
    assert line.speed(10, 100, 3.0) == 100
    line.step(9)
    line.note(9, 1.23456, f"{speed:,.0f} tokens/s", None)
    line.note(10, 1.0, "1,000,000 tokens/s", 0.5)
    line.close()
    assert capsys.readouterr().err.splitlines() == [
        "lm 9/20  loss 1.235  250 tokens/s",
        "lm 10/20  loss 1.000  1,000,000 tokens/s  50% of peak",
    ]


def test_each_stage_of_the_data_is_told_once(capsys):
    tell = tell_stages()
    for doing, done in (("reading a", 0), ("reading a", 5), ("tokenising a", 0), ("reading a", 9)):
        tell(doing, done)
    assert capsys.readouterr().err.splitlines() == ["reading a", "tokenising a"]


def test_skipped_steps_are_told_and_nothing_is_said_without_them():
    rows = [{"step": 1, "skipped": 0}, {"step": 2, "skipped": 2}, {"step": 2}]
    assert skipped_note([rows, rows]) == "\n4 training steps were not finite and left out.\n"
    assert skipped_note([rows[:1], []]) == ""
