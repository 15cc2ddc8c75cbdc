"""One cache and one unbroken run per preset for all tests of the command lines."""

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import jax
import pytest

from tests.cli.commands import run

_CACHE_OPTIONS = (
    "jax_compilation_cache_dir",
    "jax_persistent_cache_min_compile_time_secs",
    "jax_persistent_cache_min_entry_size_bytes",
)


@pytest.fixture(scope="session")
def shared(tmp_path_factory) -> Path:
    """A folder that all workers of one test run share."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def cache(shared) -> Path:
    """Stands in for the user's cache folder."""
    folder = shared / "cache"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def unbroken(shared, cache) -> Callable[[str], tuple[Path, str, str]]:
    """`unbroken(preset)`: folder, stdout and stderr of a tiny run that nothing has disturbed.

    One worker makes it, the others wait for it.
    """

    def finished(preset: str) -> tuple[Path, str, str]:
        folder = shared / f"unbroken-{preset}"
        folder.mkdir(exist_ok=True)
        with (folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (folder / "code").exists():
                code, _, _ = run(folder, cache, "train", preset, "--size", "tiny")
                (folder / "code").write_text(str(code))
        out, err = ((folder / name).read_text() for name in ("out", "err"))
        assert (folder / "code").read_text() == "0", err
        return folder / "runs" / preset / "001", out, err

    return finished


@pytest.fixture(scope="session")
def compiled() -> list[str]:
    """Grows with every program that is compiled in this process."""
    names: list[str] = []

    def listen(name: str, _seconds: float, **_):
        if name == "/jax/core/compile/backend_compile_duration":
            names.append(name)

    jax.monitoring.register_event_duration_secs_listener(listen)
    return names


@pytest.fixture
def call(monkeypatch, capsys, cache, tmp_path) -> Callable[..., tuple[int, str, str]]:
    """`call(main, *words)`: a main function in this process, in the empty folder `tmp_path`."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.chdir(tmp_path)
    before = {name: getattr(jax.config, name) for name in _CACHE_OPTIONS}

    def run_main(main: Callable[[], int], *words: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["program", *words])
        try:
            code = main()
        except SystemExit as stop:  # after `--help`
            code = stop.code
        return code, *capsys.readouterr()

    yield run_main
    for name, value in before.items():
        jax.config.update(name, value)
