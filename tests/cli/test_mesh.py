"""The same command on one device, on eight virtual ones, and on two processes of one machine."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
STEPS = 10
# Sums over devices come in another order: a few units in the last place per step.
TOLERANCE = 1e-4


def start(folder, *flags, devices=1):
    """Start `python -m train lm --size tiny` in a folder."""
    return subprocess.Popen(
        [sys.executable, "-m", "train", "lm", "--size", "tiny", "--loop.steps", str(STEPS), *flags],
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "XDG_CACHE_HOME": str(folder / "cache"),
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(*processes):
    """Wait for processes that must succeed; returns what they printed."""
    said = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), said
    return said


def rows(folder, name="lm"):
    """Logged lines without what the clock decides."""
    lines = (folder / "runs" / name / "001" / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "time"} for line in lines]


def losses(found):
    """Training losses by step."""
    return np.array([row["loss"] for row in found if "loss" in row])


def drawn(found):
    """Which windows each step trained on."""
    return [(row["batch"]["group"], row["batch"]["ids"]) for row in found if "batch" in row]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder in which `runs/lm/001` is a run on one device."""
    folder = tmp_path_factory.mktemp("mesh")
    finish(start(folder))
    return folder


def test_eight_devices_give_the_losses_of_one_and_train_on_the_same_windows(folder):
    mesh = ("--mesh.data", "2", "--mesh.fsdp", "2", "--mesh.tensor", "2")
    finish(start(folder, "--name", "eight", *mesh, devices=8))
    one, eight = rows(folder), rows(folder, "eight")
    assert drawn(one) == drawn(eight)
    assert len(losses(eight)) == STEPS
    np.testing.assert_allclose(losses(eight), losses(one), rtol=TOLERANCE)


def test_a_run_goes_on_with_another_number_of_devices(folder):
    process = start(folder, "--name", "moved")
    stop_at(process, folder / "runs" / "moved" / "001", step=5)
    finish(process)
    mesh = ("--mesh.data", "1", "--mesh.fsdp", "4", "--mesh.tensor", "2")
    finish(start(folder, "--name", "moved", "--resume", *mesh, devices=8))
    one, moved = rows(folder), rows(folder, "moved")
    assert drawn(one) == drawn(moved)
    np.testing.assert_allclose(losses(moved), losses(one), rtol=TOLERANCE)


def test_two_processes_train_stop_together_on_one_signal_and_resume(folder):
    first = two_processes(folder, "--name", "two")
    stop_at(first[1], folder / "runs" / "two" / "001", step=5)
    said = finish(*first)
    assert "--resume" in said[0]
    assert len(losses(rows(folder, "two"))) < STEPS
    finish(*two_processes(folder, "--name", "two", "--resume"))
    # The first process logs the rows that it feeds: the first half of the same batches.
    halves = [(group[:4], ids[:4]) for group, ids in drawn(rows(folder))]
    assert drawn(rows(folder, "two")) == halves
    np.testing.assert_allclose(losses(rows(folder, "two")), losses(rows(folder)), rtol=TOLERANCE)


def two_processes(folder, *flags):
    """Start two processes that form one job."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        address = f"localhost:{probe.getsockname()[1]}"
    job = ("--mesh.hosts", "2", "--mesh.coordinator", address)
    return [start(folder, *flags, *job, "--mesh.process", str(i)) for i in range(2)]


def stop_at(process, run, step):
    """Send SIGTERM once a step has been logged."""
    path = run / "metrics.jsonl"
    while process.poll() is None:
        if path.exists() and f'{{"step": {step},' in path.read_text():
            process.send_signal(signal.SIGTERM)
            return
    pytest.fail(process.communicate()[0])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--mesh.data", "3"), "must equal the number of devices, 1"),
        (("--mesh.fsdp", "0"), "mesh.fsdp must be >= 1; got 0"),
        (("--mesh.process", "1"), "mesh.process must be in 0..0 (mesh.hosts - 1); got 1"),
    ],
)
def test_a_mesh_that_does_not_fit_is_refused(folder, flags, message):
    process = start(folder, "--name", "refused", *flags)
    said = process.communicate(timeout=100)[0]
    assert process.returncode == 2
    assert message in said.splitlines()[-1]
