"""Whatever is wrong with the input ends in one line and exit code 2, with nothing done."""

import os
import shlex
import time
from dataclasses import replace
from pathlib import Path

import pytest

from configs.lm import SIZES
from evals.__main__ import main as evaluate
from jlab.data import load_groups
from tests.cli.bad_inputs import TABLE, write_files
from tests.cli.commands import assert_one_line, run
from train.__main__ import main as train

MAINS = {"train": train, "evals": evaluate}


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    write_files(folder)
    return folder


@pytest.fixture(scope="module")
def data(cache) -> None:
    """The default groups are in the cache, as after a first run."""
    load_groups(replace(SIZES["tiny"].data, cache_dir=str(cache / "jlab")))


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row[0].replace(" ", "-"))
@pytest.mark.usefixtures("data")
def test_one_line_says_what_is_wrong(row, call, files, compiled, tmp_path):
    _, command, *says = row
    program, *words = shlex.split(command.format(f=files))
    before, begin = len(compiled), time.process_time()
    code, out, err = call(MAINS[program], *words)
    assert code == 2
    assert out == ""
    assert_one_line(err, [text.format(f=files) for text in says])
    assert list(tmp_path.iterdir()) == [], "nothing is written"
    assert len(compiled) == before, "nothing is compiled"
    # Seconds of work, so that a busy machine does not count; the promise is 3 s with imports.
    assert time.process_time() - begin < 3


PROCESSES = [row for row in TABLE if row[0] in ("an unknown nested field", "a damaged line")]


@pytest.mark.parametrize("row", PROCESSES, ids=lambda row: row[0].replace(" ", "-"))
def test_a_process_says_it_within_3_s(row, files, cache, tmp_path):
    _, command, *says = row
    before = _seconds_of_children()
    code, out, err = run(tmp_path, cache, *shlex.split(command.format(f=files)))
    assert (code, out) == (2, "")
    assert_one_line(err, [text.format(f=files) for text in says])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["err", "out"]
    assert _seconds_of_children() - before < 3


def test_a_long_message_keeps_its_beginning_and_its_end(call, tmp_path):
    name = "-".join(["x"] * 400)
    code, _, err = call(train, "lm", "--size", "tiny", "--data.groups", name)
    assert code == 2
    assert_one_line(err, ["groups: each entry must be", " ... ", "x-x'"])


@pytest.mark.usefixtures("data")
def test_a_read_only_folder_is_named(call, tmp_path):
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    tmp_path.chmod(0o500)
    code, _, err = call(train, "lm", "--size", "tiny")
    tmp_path.chmod(0o700)
    assert code == 2
    assert err.splitlines()[-1] == "error: --runs-dir: cannot write in runs/lm: Permission denied"


def _seconds_of_children() -> float:
    times = os.times()
    return times.children_user + times.children_system
