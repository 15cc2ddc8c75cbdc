"""Workers on the machines of a Ray cluster; see `jlab.jobs.workers` for what they do."""

import os
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

from jlab.jobs.workers import WorkerFailed

_POLL = 1.0  # seconds between looks at the workers
_ROOT = str(Path(__file__).parents[2])


def check_ray() -> None:
    """Refuse to go on without Ray.

    Raises:
      ValueError: with the extra that brings it.
    """
    try:
        import ray  # noqa: F401
    except ImportError as error:
        how = "pip install 'jlab-research[scale]'"
        raise ValueError(f"ray cannot be used ({error}): {how}") from None


def run_on_ray(
    command: Sequence[str],
    count: int,
    address: str,
    gpus: float,
    watch: Callable[[], None],
    stop: Callable[[], bool],
) -> None:
    """Run `count` copies of a command on a cluster, to their end.

    A worker whose machine is lost is started again elsewhere, and takes up the jobs it left.

    Args:
      command: module and arguments for `python -m`; paths on a disk that all machines share.
      count: how many copies; those for which there is no room wait.
      address: of the cluster; `auto`: the running one; `local`: a new one on this machine.
      gpus: of each worker.
      watch: called every now and then while they work.
      stop: whether to end early; the workers then get SIGTERM.

    Raises:
      WorkerFailed: one ended with an error; the others are cancelled.
    """
    import ray

    path = os.pathsep.join(filter(None, [_ROOT, os.environ.get("PYTHONPATH")]))
    ray.init(address, log_to_driver=False, runtime_env={"env_vars": {"PYTHONPATH": path}})
    try:
        worker = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=3)(_worker)
        left = [worker.remote(list(command)) for _ in range(count)]
        told = False
        while left:
            if stop() and not told:
                told = True
                for task in left:
                    ray.cancel(task)
            ended, left = ray.wait(left, timeout=_POLL)
            watch()
            for task in ended:
                _check(task, told)
    finally:
        ray.shutdown()


def _worker(command: list[str]) -> str | None:
    """On a machine of the cluster: the command; its last words where it ends with an error.

    Where the task is cancelled it gets SIGTERM, and its time to save.
    """
    whole = [sys.executable, "-m", *command]
    with subprocess.Popen(whole, stderr=subprocess.PIPE, text=True, errors="replace") as process:
        last: deque[str] = deque(maxlen=20)
        try:
            last.extend(process.stderr)
            code = process.wait()
        except BaseException:
            process.terminate()
            process.wait()
            raise
    return f"{process.args[-1]}: code {code}: {''.join(last)}" if code else None


def _check(task, cancelled: bool) -> None:
    import ray

    try:
        failure = ray.get(task)
    except ray.exceptions.TaskCancelledError:
        failure = None if cancelled else "its task was cancelled"
    except ray.exceptions.RayError as error:
        failure = str(error)
    if failure:
        raise WorkerFailed(f"a worker failed: {failure}")
