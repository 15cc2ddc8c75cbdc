"""The command lines of jlab as a user starts them: in a process of their own, without network."""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PRESETS = ("lm", "aioli", "mixing_compare", "mixing_sweep")
# What each preset trains by the training loop in one run folder, in its order.
PARTS = {
    "lm": (".",),
    "aioli": ("stratified", "bad", "bad-uniform", "bad-aioli"),
    "mixing_compare": (
        "stratified",
        *(f"sweep-{k}" for k in range(5)),
        "grid_search",
        "dml",
        "regmix",
        *(f"only-{name}" for name in ("code", "tests", "docs", "headers")),
        "skillit",
        "skillit_static",
        "doremi-proxy",
        "doremi",
        "doge-proxy",
        "doge",
        "odm",
        "aioli",
    ),
    "mixing_sweep": ("path",),
}


def environment(cache: Path) -> dict[str, str]:
    """The user's, but for the cache folder; the network counts as down for every library."""
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "XDG_CACHE_HOME": str(cache),
        "JAX_PLATFORMS": "cpu",
        "HF_HUB_OFFLINE": "1",
    }


@functools.cache
def without_network() -> tuple[str, ...]:
    """Prefix of a command that takes its network away, where the system lets a user do that."""
    prefix = ("unshare", "--map-root-user", "--net")
    try:
        subprocess.run([*prefix, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        return ()
    return prefix


def start(cwd: Path, cache: Path, *words: str) -> subprocess.Popen:
    """Start `python -m WORDS` in `cwd`; output goes to the files `out` and `err` there."""
    # Not pipes: a full pipe that nobody reads would stop the run.
    with (cwd / "out").open("w") as out, (cwd / "err").open("w") as err:
        return subprocess.Popen(
            [*without_network(), sys.executable, "-m", *words],
            cwd=cwd,
            env=environment(cache),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
        )


def run(cwd: Path, cache: Path, *words: str) -> tuple[int, str, str]:
    """Run `python -m WORDS` in `cwd` to its end; exit code, stdout and stderr."""
    code = start(cwd, cache, *words).wait()
    return code, (cwd / "out").read_text(), (cwd / "err").read_text()


def rows(folder: Path) -> list[dict]:
    """Lines of a run's `metrics.jsonl` without the fields that depend on the clock."""
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [{name: value for name, value in line.items() if name != "time"} for line in lines]


def parts(preset: str, folder: Path) -> dict[str, Path]:
    """The folders of the trained models in the folder of a run of one seed."""
    return {part: folder / part for part in PARTS[preset]}


def assert_one_line(err: str, says: list[str]) -> None:
    """One line begins with `error: `; before it only the progress of reading the data."""
    *before, line = err.splitlines()
    assert all(text.startswith(("reading ", "tokenising ")) for text in before), err
    assert line.startswith("error: ")
    assert len(line) <= 300
    assert "Traceback" not in err
    assert [text for text in says if text not in line] == [], line
