"""Workers on the machines of a Ray cluster; see `jlab.jobs.workers` for what they do."""

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

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
      RuntimeError: a worker ended with an error.
    """
    import ray

    ray.init(address, log_to_driver=True, runtime_env={"env_vars": {"PYTHONPATH": _ROOT}})
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
                _result(task, told)
    finally:
        ray.shutdown()


def _worker(command: list[str]) -> None:
    """On a machine of the cluster: the command, ended with SIGTERM where the task is cancelled."""
    with subprocess.Popen([sys.executable, "-m", *command]) as process:
        try:
            code = process.wait()
        except BaseException:
            process.terminate()
            process.wait()
            raise
    if code:
        raise RuntimeError(f"a worker ended with code {code}: {' '.join(command)}")


def _result(task, cancelled: bool) -> None:
    import ray

    try:
        ray.get(task)
    except ray.exceptions.TaskCancelledError:
        if not cancelled:
            raise
