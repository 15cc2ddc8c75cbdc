"""Writers of a store are killed at any moment; what comes out is what unbroken ones would store."""

import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from jlab.jobs import open_store

ROOT = Path(__file__).parents[2]
# Rows of up to 1 MB, so that many a kill falls into the writing of a line.
WRITER = """
import sys
from jlab.jobs.results import open_store
folder, first, step, total = sys.argv[1], *map(int, sys.argv[2:])
with open_store(folder, {"job": "kill"}) as store:
    for sample in range(first, total, step):
        key = store.key(sample=sample)
        if key not in store:
            store.append(key, {"sample": sample, "text": "x" * (sample * 7919 % 1_000_003)})
            print(key, flush=True)
"""


# Takes all records for missing, and begins to store them when it is told to.
RIVAL = """
import sys
from jlab.jobs.results import open_store
with open_store(sys.argv[1], {"job": "kill"}) as store:
    keys = [store.key(sample=sample) for sample in range(20)]
    missing = [key for key in keys if key not in store]
    print(len(missing), flush=True)
    sys.stdin.readline()
    for key in missing:
        store.append(key, {"by": sys.argv[2]})
"""


def start(folder, *words, program=WRITER) -> subprocess.Popen:
    words = [sys.executable, "-S", "-c", program, folder, *words]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    return subprocess.Popen(list(map(str, words)), cwd=ROOT, text=True, **pipes)


def rows_on_disk(folder) -> list[str]:
    """Key of every whole line, in whatever shard."""
    lines = [
        line for path in folder.glob("*.jsonl") for line in path.read_bytes().split(b"\n")[:-1]
    ]
    return [json.loads(line)["key"] for line in lines]


@pytest.mark.parametrize("seed", range(2))
def test_killed_writers_lose_and_repeat_no_record(tmp_path, seed):
    draw, total, said = random.Random(seed), 60, []
    for _ in range(4):
        writers = [start(tmp_path, first, 2, total) for first in range(2)]
        for writer in writers:
            for _ in range(draw.randrange(8)):
                said.append(writer.stdout.readline().strip())
        time.sleep(draw.random() / 100)
        for writer in writers:
            writer.send_signal(signal.SIGKILL)
            said += writer.communicate()[0].split()
    with open_store(tmp_path, {"job": "kill"}) as store:
        assert {key for key in said if key} <= {key for key, _ in store.rows()}
    for writer in [start(tmp_path, first, 2, total) for first in range(2)]:
        writer.communicate()
        assert writer.returncode == 0
    with open_store(tmp_path, {"job": "kill"}) as store:
        found = list(store.rows())
        assert sorted(row["sample"] for _, row in found) == list(range(total))
        for key, row in found:
            assert key == store.key(sample=row["sample"])
            assert row["text"] == "x" * (row["sample"] * 7919 % 1_000_003)
    assert set(Counter(rows_on_disk(tmp_path)).values()) == {1}, "nothing was computed twice"
    assert len(list(tmp_path.glob("*.jsonl"))) <= 2, "killed writers' shards are used again"


def test_what_another_process_stored_meanwhile_is_left_as_it_is(tmp_path):
    rivals = [start(tmp_path, name, program=RIVAL) for name in "ab"]
    assert [int(rival.stdout.readline()) for rival in rivals] == [20, 20]
    for rival in rivals:
        rival.communicate("go\n")
        assert rival.returncode == 0
    assert set(Counter(rows_on_disk(tmp_path)).values()) == {1}
    with open_store(tmp_path, {"job": "kill"}) as store:
        assert [row["by"] for _, row in store.rows()] == ["a"] * 20


def test_a_store_killed_while_it_is_made_can_be_made_again(tmp_path):
    for delay in (0.0, 0.02, 0.04, 0.06, 0.08):
        writer = start(tmp_path, 0, 1, 3)
        time.sleep(delay)
        writer.kill()
        writer.communicate()
    writer = start(tmp_path, 0, 1, 3)
    writer.communicate()
    assert writer.returncode == 0
    with open_store(tmp_path, {"job": "kill"}) as store:
        assert store.count() == 3


def test_many_writers_at_once_share_the_settings_and_take_a_shard_each(tmp_path):
    writers = [start(tmp_path, first, 4, 40) for first in range(4)]
    for writer in writers:
        writer.communicate()
        assert writer.returncode == 0
    with open_store(tmp_path, {"job": "kill"}) as store:
        assert sorted(row["sample"] for _, row in store.rows()) == list(range(40))
