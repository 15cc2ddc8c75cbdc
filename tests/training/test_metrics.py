"""metrics.jsonl: plain JSON, whole after a kill, mirrored to TensorBoard."""

import json
import math

import jax.numpy as jnp
import numpy as np
import pytest

from jlab.training import Run
from jlab.training.metrics import Clock, MetricsLog, read_metrics

TIME = {"clock": 1.75e9, "elapsed": 2.0}


def scalars(folder) -> dict[str, list[tuple[int, float]]]:
    """Steps and values of every tag in TensorBoard's files, read record by record.

    A record is its length (8 bytes), a checksum (4), the event, a checksum (4).
    """
    from tensorboardX.proto.event_pb2 import Event

    found = {}
    for path in sorted((folder / "tensorboard").iterdir()):
        data = path.read_bytes()
        while data:
            size = int.from_bytes(data[:8], "little")
            event = Event.FromString(data[12 : 12 + size])
            data = data[12 + size + 4 :]
            for value in event.summary.value:
                found.setdefault(value.tag, []).append((event.step, value.simple_value))
    return found


def written(folder, steps=3):
    log = MetricsLog(folder)
    for step in range(steps):
        log.write(step, {"loss": 0.5 * step, "plan": {"p": [0.5, 0.5]}}, TIME)
    log.close()


def test_values_become_plain_json_and_what_is_not_finite_null(tmp_path):
    log = MetricsLog(tmp_path)
    row = log.write(
        np.int64(3),
        {
            "nan": float("nan"),
            "inf": np.float32(-np.inf),
            "array": jnp.array([1.0, jnp.nan]),
            "nested": {"matrix": np.array([[1, 2]]), "pair": (np.float64(0.1), True)},
            "third": 1 / 3,
        },
        {**TIME, "mfu": None},
    )
    log.close()
    expected = {
        "step": 3,
        "nan": None,
        "inf": None,
        "array": [1.0, None],
        "nested": {"matrix": [[1, 2]], "pair": [0.1, True]},
        "third": 1 / 3,  # all digits of a float64
        "time": {"clock": 1.75e9, "elapsed": 2.0, "mfu": None},
    }
    assert row == expected
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line, parse_constant=pytest.fail) == expected  # no NaN or Infinity in it
    assert read_metrics(tmp_path) == [expected]


def test_a_line_cut_off_by_a_kill_is_left_out(tmp_path):
    written(tmp_path)
    path = tmp_path / "metrics.jsonl"
    whole = path.read_text()
    for cut in range(1, len(whole.splitlines(keepends=True)[-1]) + 1):
        path.write_text(whole[:-cut])
        assert [row["step"] for row in read_metrics(tmp_path)] == [0, 1]


def test_each_line_is_on_disk_when_it_is_written(tmp_path):
    log = MetricsLog(tmp_path)
    log.write(0, {"loss": 1.0}, TIME)
    assert len(read_metrics(tmp_path)) == 1
    log.close()


class SmallDisk:
    """A file on a disk that takes `room` more bytes."""

    def __init__(self, file, room):
        self.file, self.room = file, room

    def write(self, data):
        if not self.room:
            raise OSError(28, "No space left on device")
        written = self.file.write(data[: self.room])
        self.room -= written
        return written

    def close(self):
        self.file.close()


def test_lines_wait_for_a_full_disk_and_none_is_lost(tmp_path):
    log = MetricsLog(tmp_path)
    log.write(0, {"loss": 1.0}, TIME)
    log._file = disk = SmallDisk(log._file, room=30)  # less than a line
    with pytest.warns(UserWarning, match=r"lacks its last lines: No space .*; training goes on"):
        log.write(1, {"loss": 2.0}, TIME)
    log.write(2, {"loss": 3.0}, TIME)  # told once
    assert [row["step"] for row in read_metrics(tmp_path)] == [0]
    assert log.failure == "metrics.jsonl lacks its last lines: No space left on device"
    disk.room = 10_000  # someone has made room
    log.write(3, {"loss": 4.0}, TIME)
    log.close()
    assert log.failure is None
    assert [row["loss"] for row in read_metrics(tmp_path)] == [1.0, 2.0, 3.0, 4.0]


def test_tensorboard_stops_on_a_full_disk_and_the_lines_go_on(tmp_path, monkeypatch):
    log, written = MetricsLog(tmp_path), []

    def write_event(event):
        written.append(event.step)
        raise OSError(28, "No space left on device")

    events = log._events
    monkeypatch.setattr(events, "write_event", write_event)
    for step in range(3):
        log.write(step, {"loss": 1.0}, TIME)
    log.close()
    events.close()
    assert written == [0]
    assert [row["step"] for row in read_metrics(tmp_path)] == [0, 1, 2]


def test_a_disk_that_stays_full_is_told_at_the_end_of_the_run(tmp_path):
    run = Run(tmp_path)
    run.open_log(None)
    run.log(0, {"loss": 1.0})
    run._log._file = SmallDisk(run._log._file, room=0)
    with pytest.warns(UserWarning, match="No space left on device"):
        run.log(1, {"loss": 2.0})
    run.close_log()
    assert run.failures == ["metrics.jsonl lacks its last lines: No space left on device"]
    assert [row["step"] for row in run.rows()] == [0]


@pytest.mark.parametrize(("resume_at", "kept"), [(None, [0, 1, 2]), (1, [0, 1]), (-1, [])])
def test_resuming_cuts_the_lines_and_tensorboard_back(tmp_path, resume_at, kept):
    written(tmp_path)
    (events,) = (tmp_path / "tensorboard").iterdir()
    events.rename(events.with_name("events.out.tfevents.1.before"))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "lo')
    log = MetricsLog(tmp_path, resume_at)
    log.write(7, {"loss": 9.0}, TIME)
    log.close()
    assert [row["step"] for row in read_metrics(tmp_path)] == [*kept, 7]
    found = scalars(tmp_path)
    assert found["loss"] == [*((step, 0.5 * step) for step in kept), (7, 9.0)]
    assert len(list((tmp_path / "tensorboard").iterdir())) == 1


def test_tensorboard_gets_every_number_and_nothing_else(tmp_path):
    log = MetricsLog(tmp_path)
    values = {"a": 1.5, "none": float("nan"), "list": [1.0], "word": "x", "on": True, "count": 3}
    log.write(4, values, {**TIME, "mfu": None})
    log.close()
    found = scalars(tmp_path)
    times = {"time/clock": [(4, 1.75e9)], "time/elapsed": [(4, 2.0)]}
    assert found == {"a": [(4, 1.5)], "on": [(4, 1.0)], "count": [(4, 3.0)], **times}


def test_a_clock_accounts_for_all_of_its_time():
    clock = Clock()
    with clock.measure("data"):
        sum(range(1000))
    with pytest.raises(KeyError), clock.measure("step"):
        raise KeyError
    seconds = clock.seconds()
    assert seconds["data"] > 0
    assert seconds["step"] > 0  # counted though it failed
    assert seconds["evaluate"] == seconds["checkpoint"] == 0
    parts = sum(seconds[name] for name in ("data", "step", "evaluate", "checkpoint", "other"))
    assert math.isclose(parts, seconds["elapsed"], rel_tol=1e-9)  # float64
    assert seconds["clock"] > 1.7e9


@pytest.mark.parametrize("line", ["garbage", "[]", '{"step": 3}'])
def test_a_damaged_line_is_named_by_file_and_number(tmp_path, line):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "time": {}}\n' + line + "\n")
    with pytest.raises(ValueError, match=r"metrics\.jsonl:2 is damaged"):
        read_metrics(tmp_path)
