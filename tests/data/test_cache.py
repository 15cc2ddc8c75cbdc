"""A cached folder is whole or made again."""

import os
import subprocess
import sys
import threading

import pytest

from jlab.data.cache import cached, key

FILES = {"one": b"first file", "two": b"", "three": bytes(range(256)) * 50}


def build(folder):
    for name, data in FILES.items():
        (folder / name).write_bytes(data)
    return {"size": 3}


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def never(folder):
    pytest.fail("built again what was whole")


def test_a_folder_is_built_once(tmp_path):
    assert cached(tmp_path / "a", build) == {"size": 3}
    assert cached(tmp_path / "a", never) == {"size": 3}
    assert FILES.items() <= content(tmp_path / "a").items()


def _cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def _flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _empty(path):
    path.write_bytes(b"")


def _replace(path):
    path.write_text("[]")


@pytest.mark.parametrize("name", ["one", "three", "manifest.json"])
@pytest.mark.parametrize("damage", [_cut, _empty, os.unlink, _flip, _replace])
def test_damage_to_any_file_is_noticed_and_repaired(tmp_path, name, damage):
    folder = tmp_path / "a"
    cached(folder, build)
    whole = content(folder)
    damage(folder / name)
    built = []
    cached(folder, lambda into: built.append(1) or build(into))
    assert built
    assert content(folder) == whole


def test_a_changed_fact_is_noticed_too(tmp_path):
    cached(tmp_path / "a", build)
    manifest = tmp_path / "a" / "manifest.json"
    changed = manifest.read_text().replace('"size": 3', '"size": 4')
    manifest.write_text(changed)
    assert cached(tmp_path / "a", build) == {"size": 3}
    assert manifest.read_text() != changed


def test_a_build_that_fails_leaves_nothing_that_counts(tmp_path):
    def fail(folder):
        (folder / "one").write_bytes(b"half")
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        cached(tmp_path / "a", fail)
    assert not (tmp_path / "a").exists()
    assert cached(tmp_path / "a", build) == {"size": 3}


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path):
    program = (
        "import os, pathlib, signal\n"
        "from jlab.data.cache import cached\n"
        "def build(folder):\n"
        "    (folder / 'one').write_bytes(b'half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        f"cached(pathlib.Path({str(tmp_path / 'a')!r}), build)\n"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == -9
    assert any(path.name.startswith(".a-") for path in tmp_path.iterdir())
    cached(tmp_path / "a", build)
    assert FILES.items() <= content(tmp_path / "a").items()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "a.lock"]


def test_of_two_that_want_it_one_builds_and_both_get_it(tmp_path):
    inside, go = threading.Event(), threading.Event()
    built, results = [], []

    def slow(folder):
        built.append(1)
        inside.set()
        go.wait(10)
        return build(folder)

    def want():
        results.append(cached(tmp_path / "a", slow))

    first, second = threading.Thread(target=want), threading.Thread(target=want)
    first.start()
    assert inside.wait(10)
    second.start()
    go.set()
    first.join(10)
    second.join(10)
    assert results == [{"size": 3}] * 2
    assert built == [1]


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match=r"cache_dir: cannot write in .*file/data"):
        cached(tmp_path / "file" / "data" / "a", build)


def test_a_key_changes_with_every_part():
    assert len({key(1, "a", None), key(1, "b", None), key(1, "a", 0), key((1, "a"), None)}) == 4
