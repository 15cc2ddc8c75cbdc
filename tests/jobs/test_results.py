"""The result store: nothing lost, nothing repeated, damage named, the same order for everybody."""

import json
import os
import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jlab.jobs import content_hash, open_store

SETTINGS = {"temperature": 0.6, "model": {"layers": 2, "name": "tiny"}}
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


def fill(folder, samples, writers=1):
    """Store rows of these samples, in this order, by so many writers in turn."""
    stores = [open_store(folder, SETTINGS) for _ in range(writers)]
    for n, sample in enumerate(samples):
        store = stores[n % writers]
        store.append(store.key(sample=sample), {"sample": sample, "text": "é" * sample})
    for store in stores:
        store.close()


def contents(folder):
    with open_store(folder, SETTINGS) as store:
        return list(store.rows())


@given(JSON, JSON)
def test_a_hash_tells_values_apart_and_nothing_else(a, b):
    assert (content_hash(a) == content_hash(b)) == (
        json.dumps(a, sort_keys=True) == json.dumps(b, sort_keys=True)
    )


def test_a_key_does_not_depend_on_the_order_of_fields_but_on_the_settings(tmp_path):
    with open_store(tmp_path / "a", {"x": 1, "y": 2}) as a:
        key = a.key(prompt="p", sample=3)
        assert key == a.key(sample=3, prompt="p")
        assert key != a.key(sample=4, prompt="p")
    with open_store(tmp_path / "b", {"y": 2, "x": 1}) as b:
        assert b.key(prompt="p", sample=3) == key
    with open_store(tmp_path / "c", {"x": 1, "y": 3}) as c:
        assert c.key(prompt="p", sample=3) != key


def test_what_is_appended_is_there_at_once_and_after_reopening(tmp_path):
    row = {"text": "a\nb\u2028\ud800", "score": 1 / 3, "none": None, "list": [1, [True]]}
    with open_store(tmp_path, SETTINGS) as store:
        key = store.key(sample=0)
        assert key not in store
        store.append(key, row)
        assert key in store
        assert store[key] == row
        assert store.count() == 1
    with open_store(tmp_path, SETTINGS) as store:
        assert list(store.rows()) == [(key, row)]
        with pytest.raises(KeyError):
            store[store.key(sample=1)]


@given(st.permutations(range(8)), st.integers(1, 3))
def test_the_order_is_that_of_the_keys_however_they_were_written(tmp_path_factory, order, writers):
    one, other = (tmp_path_factory.mktemp("store") for _ in range(2))
    fill(one, range(8))
    fill(other, order, writers)
    assert contents(one) == contents(other)
    assert [key for key, _ in contents(one)] == sorted(key for key, _ in contents(one))
    assert len(list(other.glob("*.jsonl"))) == writers


# What may happen to a store: a writer stores a sample or closes and opens again, or, while nobody
# writes, a part of the last line of a shard is lost.
EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["append"] * 4 + ["reopen", "tear"]), st.integers(0, 1), st.integers(1, 60)
    ),
    max_size=25,
)


@given(EVENTS)
def test_a_store_holds_what_was_appended_and_not_torn(tmp_path_factory, events):
    folder = tmp_path_factory.mktemp("store")
    stores = [open_store(folder, SETTINGS) for _ in range(2)]
    expected, last = {}, {}
    for event, who, number in events:
        if event == "append":
            key = stores[who].key(sample=number)
            if key not in expected:
                stores[who].append(key, {"sample": number})
                expected[key] = {"sample": number}
        else:
            for store in stores:
                store.close()
            if event == "tear":
                last = tear(folder, who, number)
                expected = {key: row for key, row in expected.items() if key != last}
            stores = [open_store(folder, SETTINGS) for _ in range(2)]
        assert stores[who].count() == len(expected)
    assert dict(stores[0].rows()) == expected
    for store in stores:
        store.close()


def tear(folder, shard, number):
    """Lose the end of a shard's last line, at most its whole; the key of its record."""
    path = folder / f"{shard:04d}.jsonl"
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    if not lines:
        return None
    path.write_bytes(b"".join(lines)[: -min(number, len(lines[-1]))])
    return json.loads(lines[-1])["key"]


def test_a_line_cut_anywhere_is_removed_and_its_record_can_be_stored_again(tmp_path):
    fill(tmp_path, range(3))
    path, whole = tmp_path / "0000.jsonl", (tmp_path / "0000.jsonl").read_bytes()
    last = whole.splitlines(keepends=True)[-1]
    for cut in range(1, len(last) + 1):
        path.write_bytes(whole[:-cut])
        with open_store(tmp_path, SETTINGS) as store:
            assert store.count() == 2
            assert path.read_bytes() == whole[:-cut]  # who only reads changes nothing
            store.append(store.key(sample=2), {"sample": 2, "text": "éé"})
        assert path.read_bytes() == whole


def test_every_flipped_bit_is_named_by_file_and_line(tmp_path):
    fill(tmp_path, range(3))
    path, whole = tmp_path / "0000.jsonl", (tmp_path / "0000.jsonl").read_bytes()
    for at in range(len(whole) - 1):  # without its last byte the last line has no end
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :])
        line = whole[:at].count(b"\n") + 1
        with pytest.raises(ValueError, match=rf"0000\.jsonl:{line} is damaged: delete it, and"):
            open_store(tmp_path, SETTINGS)


@pytest.mark.parametrize("line", [b"", b"garbage", b"{}", b"\xff\xfe", b"null"])
def test_a_line_that_is_none_of_ours_is_named(tmp_path, line):
    fill(tmp_path, range(2))
    with (tmp_path / "0000.jsonl").open("ab") as file:
        file.write(line + b"\n")
    with pytest.raises(ValueError, match=r"0000\.jsonl:3 is damaged"):
        open_store(tmp_path, SETTINGS)


def test_another_writers_records_are_seen_and_its_shard_is_left_alone(tmp_path):
    with open_store(tmp_path, SETTINGS) as a, open_store(tmp_path, SETTINGS) as b:
        a.append(a.key(sample=0), {"sample": 0})
        b.append(b.key(sample=1), {"sample": 1})
        assert a.count() == b.count() == 2
        assert list(a.rows()) == list(b.rows())
    assert sorted(path.name for path in tmp_path.glob("*.jsonl")) == ["0000.jsonl", "0001.jsonl"]
    with open_store(tmp_path, SETTINGS) as store:
        store.append(store.key(sample=2), {"sample": 2})
    assert len(list(tmp_path.glob("*.jsonl"))) == 2, "a shard that nobody writes is used again"


def test_a_key_that_two_stored_at_once_counts_once(tmp_path):
    with open_store(tmp_path, SETTINGS) as a, open_store(tmp_path, SETTINGS) as b:
        key = a.key(sample=0)
        b.append(b.key(sample=1), {"by": "b"})  # shard 0
        a.append(key, {"by": "a"})  # shard 1
        b.append(key, {"by": "b"})
        assert a.count() == b.count() == 2
        assert dict(a.rows())[key] == dict(b.rows())[key] == {"by": "b"}


def test_a_key_that_is_stored_keeps_its_first_row(tmp_path):
    with open_store(tmp_path, SETTINGS) as store:
        key = store.key(sample=0)
        for number in range(2):
            store.append(key, {"try": number})
        assert (store.count(), store[key]) == (1, {"try": 0})
    assert (tmp_path / "0000.jsonl").read_bytes().count(b"\n") == 1


def test_a_full_disk_is_told_and_leaves_the_store_as_it_was(tmp_path, monkeypatch):
    write, room = os.write, 20

    def small(file, data):
        nonlocal room
        if not room:
            raise OSError(28, "No space left on device")
        written = write(file, data[:room])
        room -= written
        return written

    with open_store(tmp_path, SETTINGS) as store:
        store.append(store.key(sample=0), {"sample": 0})
        monkeypatch.setattr(os, "write", small)
        with pytest.raises(OSError, match="No space left"):
            store.append(store.key(sample=1), {"sample": 1})
        monkeypatch.undo()
        assert store.key(sample=1) not in store
        store.append(store.key(sample=2), {"sample": 2})
    assert sorted(row["sample"] for _, row in contents(tmp_path)) == [0, 2]


@pytest.mark.parametrize(("seconds", "syncs"), [(0, 4), (1000, 1)])
def test_records_are_forced_to_the_disk_in_time_and_at_the_end(
    tmp_path, monkeypatch, seconds, syncs
):
    seen = []
    with open_store(tmp_path, SETTINGS, sync_seconds=seconds) as store:
        store.append(store.key(sample=-1), {})
        monkeypatch.setattr(os, "fsync", seen.append)
        for sample in range(3):
            store.append(store.key(sample=sample), {})
    assert len(seen) == syncs


def test_the_settings_of_another_job_are_refused_in_one_line(tmp_path):
    fill(tmp_path, range(1))
    other = {**SETTINGS, "model": {"layers": 3, "name": "tiny"}}
    text = "settings.json is of another job: model.layers is 2 there and 3 here; use another folder"
    with pytest.raises(ValueError, match=re.escape(text)):
        open_store(tmp_path, other)
    with pytest.raises(ValueError, match=r'temperature is 0\.6 there and "nothing" here'):
        open_store(tmp_path, {"model": SETTINGS["model"]})
    with pytest.raises(ValueError, match='top_p is "nothing" there and 1 here'):
        open_store(tmp_path, {**SETTINGS, "top_p": 1})
    (tmp_path / "settings.json").write_text("{")
    with pytest.raises(ValueError, match=r"settings\.json is damaged: not JSON"):
        open_store(tmp_path, SETTINGS)


def test_settings_that_json_changes_are_still_the_same_job(tmp_path):
    for _ in range(2):
        open_store(tmp_path, {"shape": (1, 2), "by": {1: "one"}}).close()


def test_bad_input_is_refused_in_one_line(tmp_path):
    with pytest.raises(ValueError, match="sync_seconds must be >= 0; got -1"):
        open_store(tmp_path, SETTINGS, sync_seconds=-1)
    with pytest.raises(ValueError, match="settings: not JSON: Out of range float"):
        open_store(tmp_path, {"nan": float("nan")})
    with open_store(tmp_path, SETTINGS) as store:
        key = store.key(sample=0)
        with pytest.raises(ValueError, match=f"row of {key}: not JSON: Object of type set is not"):
            store.append(key, {"x": {1}})
        with pytest.raises(ValueError, match=r"row of .*: not JSON: Out of range float"):
            store.append(key, {"loss": float("inf")})
        with pytest.raises(ValueError, match="parts of a key: not JSON"):
            store.key(sample=b"bytes")
        with pytest.raises(ValueError, match="abc is not a key of a store"):
            store.append("abc", {"x": 1})


def test_a_child_process_must_open_the_store_for_itself(tmp_path, monkeypatch):
    with open_store(tmp_path, SETTINGS) as store:
        monkeypatch.setattr(os, "getpid", lambda: -1)
        with pytest.raises(RuntimeError, match="a child process must open the store for itself"):
            store.append(store.key(sample=0), {})


def test_a_record_takes_little_time(tmp_path):
    with open_store(tmp_path, SETTINGS) as store:
        start = time.perf_counter()
        for sample in range(2000):
            store.append(store.key(sample=sample), {"text": "x" * 500})
        # 25 us each on an idle core; the bound only rules out what grows with the store.
        assert time.perf_counter() - start < 2
