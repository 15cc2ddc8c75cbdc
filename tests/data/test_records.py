"""Records of files and of the hub are read alike; what is wrong is named with its place."""

import gzip
import json

import datasets
import pyarrow
import pytest
import zstandard
from pyarrow import parquet

from jlab.data.records import read_records

ROWS = [{"ask": "one?", "say": "1"}, {"ask": "two?\nor so", "say": "2"}]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)
CSV = 'ask,say\none?,1\n"two?\nor so",2\n'
WRITERS = {
    "a.jsonl": lambda path: path.write_text(LINES),
    "a.ndjson.zst": lambda path: path.write_bytes(zstandard.compress(LINES.encode())),
    "lines.json": lambda path: path.write_text(LINES),
    "list.json": lambda path: path.write_text("\n" + json.dumps(ROWS, indent=4)),
    "list.json.gz": lambda path: path.write_bytes(gzip.compress(json.dumps(ROWS).encode())),
    "a.csv": lambda path: path.write_text(CSV),
    "a.parquet": lambda path: parquet.write_table(pyarrow.Table.from_pylist(ROWS), path),
}


def read(where, fields=("ask", "say"), subset=None, split="test"):
    return read_records("data.path", str(where), fields, subset=subset, split=split)


@pytest.mark.parametrize("name", WRITERS)
def test_every_kind_of_file_holds_the_same_records(name, tmp_path):
    WRITERS[name](tmp_path / name)
    rows = read(tmp_path / name)
    assert [row.cells for row in rows] == ROWS
    assert all(row.where.startswith(str(tmp_path / name)) for row in rows)


def test_a_dataset_is_read_by_its_name(monkeypatch):
    requests = []

    def load_dataset(*args, **kwargs):
        requests.append((args, kwargs))
        return datasets.Dataset.from_list(ROWS)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    rows = read("owner/name", subset="main", split="train")
    assert [row.cells for row in rows] == ROWS
    assert rows[1].where == "owner/name, train: row 2"
    assert requests == [(("owner/name", "main"), {"split": "train"})]


def test_a_dataset_that_cannot_be_read_is_one_line(monkeypatch):
    def load_dataset(*_args, **_kwargs):
        raise ConnectionError("no route\nwith a second line")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    says = r"^data\.path: no file 'owner/name' here, and the Hugging Face hub says: no route$"
    with pytest.raises(ValueError, match=says):
        read("owner/name")


WRONG = {
    "no field": ("a.jsonl", '{"ask": "?"}', "a.jsonl:1: no field 'say'; the record has 'ask'"),
    "null": (
        "a.jsonl",
        LINES + '{"ask": "?", "say": null}',
        "a.jsonl:3: field 'say' must be a str",
    ),
    "number": ("a.json", '[{"ask": "?", "say": 4}]', "a.json: row 1: .* a string, got int"),
    "empty": ("a.csv", CSV + "three?, \n", "a.csv:5: field 'say' is empty"),
    "not text": ("a.jsonl", '{"ask": "\\ud800", "say": "x"}', "'ask' is not valid Unicode"),
    "no object": ("a.json", '[{"ask": "?", "say": "4"}, 3]', "row 2 must be an object; got 3"),
    "open list": ("a.json", "[{", "a.json is not JSON"),
    "open line": ("a.json", LINES + "{", "a.json:3: not a JSON object per line"),
    "no rows": ("a.json", "[]", "data.path: .*a.json has no rows"),
    "no archive": ("a.json.gz", "[]", "a.json.gz is not JSON"),
    "a matrix": ("a.npz", "", "data.path: a file must end in .jsonl, .* got .*a.npz"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_named_with_its_place(case, tmp_path):
    name, text, says = WRONG[case]
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=says) as caught:
        read(tmp_path / name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("where", "got"),
    [("", "nothing"), ("a/b.json", "'a/b.json', which is not there"), (".", "'.'")],
)
def test_what_is_neither_file_nor_dataset_is_refused(where, got):
    with pytest.raises(ValueError, match=f"data.path must be a file or .* owner/name; got {got}"):
        read(where)
