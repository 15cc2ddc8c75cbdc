"""Workers on Ray, where it is installed: they run in processes of a cluster on this machine."""

import os
from pathlib import Path

import pytest

from jlab.jobs.workers import WorkerFailed
from tests.jobs.test_workers import worker  # noqa: F401  a fixture

pytest.importorskip("ray", reason="the extra scale is not installed")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::Warning")]  # Ray's own


def test_every_job_is_done_and_a_failure_is_told(worker, tmp_path):  # noqa: F811
    from jlab.jobs.on_ray import run_on_ray

    run_on_ray(worker, 2, "local", 0, lambda: None, lambda: False)
    done = [path.read_text().split() for path in sorted(tmp_path.glob("jobs/*/done"))]
    assert len(done) == 12
    assert all(len(who) == 1 for who in done)
    assert str(os.getpid()) not in {who for line in done for who in line}
    for path in tmp_path.glob("jobs/*/done"):
        Path(path).unlink()
    (tmp_path / "jobs/fail").touch()
    with pytest.raises(WorkerFailed, match="no disk today"):
        run_on_ray(worker, 1, "local", 0, lambda: None, lambda: False)
