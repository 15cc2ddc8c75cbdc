"""Tables of runs: every kind of file holds the same runs; what is wrong is named with its place."""

import csv
import gzip
import json

import numpy as np
import pyarrow
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from jlab.data.table import Table, aligned, read_table

ROWS = [
    {"run": "a", "p/code": 0.5, "p/docs": 0.5, "loss/code": 3.0, "loss/web": 4.0},
    {"run": "b", "p/code": 1.0, "p/docs": 0.0, "loss/code": 2.0, "loss/web": 5.0},
    {"run": "c", "p/code": 0.25, "p/docs": 0.75, "loss/code": 3.5, "loss/web": 3.75},
]
EXPECTED = Table(
    np.array([[0.5, 0.5], [1.0, 0.0], [0.25, 0.75]]),
    np.array([[3.0, 4.0], [2.0, 5.0], [3.5, 3.75]]),
    ("code", "docs"),
    ("code", "web"),
)


def nested(row: dict) -> dict:
    inner = {prefix: {} for prefix in ("p", "loss")}
    for name, value in row.items():
        prefix, slash, label = name.partition("/")
        if slash:
            inner[prefix][label] = value
    return {"run": row["run"], **inner}


def csv_text(rows: list[dict]) -> str:
    return "\n".join([",".join(rows[0]), *[",".join(map(str, row.values())) for row in rows]])


def json_text(rows: list[dict]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def write_npz(path, **changes):
    arrays = {
        "p": EXPECTED.proportions,
        "loss": EXPECTED.losses,
        "groups": np.array(EXPECTED.groups),
        "targets": np.array(EXPECTED.targets),
    }
    np.savez(path, **{k: v for k, v in (arrays | changes).items() if v is not None})


WRITERS = {
    "a.csv": lambda path: path.write_text(csv_text(ROWS)),
    "windows.csv": lambda path: path.write_bytes(
        b"\xef\xbb\xbf" + csv_text(ROWS).replace("\n", "\r\n").encode() + b"\r\n\r\n"
    ),
    "a.csv.gz": lambda path: path.write_bytes(gzip.compress(csv_text(ROWS).encode())),
    "a.jsonl": lambda path: path.write_text(json_text(ROWS)),
    "nested.jsonl": lambda path: path.write_text(json_text(list(map(nested, ROWS)))),
    "a.jsonl.zst": lambda path: path.write_bytes(zstandard.compress(json_text(ROWS).encode())),
    "A.JSONL.GZ": lambda path: path.write_bytes(gzip.compress(json_text(ROWS).encode())),
    "a.parquet": lambda path: parquet.write_table(pyarrow.Table.from_pylist(ROWS), path),
    "nested.parquet": lambda path: parquet.write_table(
        pyarrow.Table.from_pylist(list(map(nested, ROWS))), path
    ),
    "a.npz": write_npz,
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_kind_of_file_holds_the_same_runs(name, tmp_path):
    WRITERS[name](tmp_path / name)
    table = read_table(tmp_path / name)
    assert table.groups == EXPECTED.groups
    assert table.targets == EXPECTED.targets
    for got, expected in zip(table[:2], EXPECTED[:2], strict=True):
        assert got.dtype == np.float64
        np.testing.assert_array_equal(got, expected)


@given(
    st.lists(st.floats(0.01, 1), min_size=1, max_size=5),
    st.lists(st.floats(-1e30, 1e30), min_size=1, max_size=3),
)
def test_numbers_of_a_csv_come_back_bit_for_bit(tmp_path_factory, parts, losses):
    p = np.array(parts) / np.sum(parts)
    path = tmp_path_factory.mktemp("t") / "t.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*(f"p/{i}" for i in range(len(p))), *(f"loss/{i}" for i in range(9))])
        writer.writerow([*p.tolist(), *(losses * 9)[:9]])
    table = read_table(path)
    np.testing.assert_array_equal(table.proportions[0], p)
    np.testing.assert_array_equal(table.losses[0], (losses * 9)[:9])


def test_other_names_are_given_and_other_columns_left_alone(tmp_path):
    write_npz(tmp_path / "a.npz", share=EXPECTED.proportions[:1], end=np.array([[1, 2]]), k=["x"])
    table = read_table(tmp_path / "a.npz", ("share", "end"), ("targets", "groups"))
    assert table[2:] == (EXPECTED.targets, EXPECTED.groups)
    np.testing.assert_array_equal(table.losses, [[1.0, 2.0]])
    (tmp_path / "a.csv").write_text("w/a,w/b/c,step,end/x\n0.5,0.5,9,1\n")
    table = read_table(tmp_path / "a.csv", ("w", "end"))
    assert table[2:] == (("a", "b/c"), ("x",))


def test_an_archive_without_names_numbers_its_columns(tmp_path):
    write_npz(tmp_path / "a.npz", groups=None)
    assert read_table(tmp_path / "a.npz").groups == ("1", "2")


def test_rounded_proportions_are_kept_as_they_are(tmp_path):
    (tmp_path / "a.csv").write_text("p/a,p/b,p/c,loss/x\n.333,.333,.333,1")
    assert read_table(tmp_path / "a.csv").proportions.tolist() == [[0.333] * 3]


def test_columns_can_be_put_in_another_tables_order():
    table = aligned(EXPECTED, ("docs", "code"), ("web",), "the test table")
    assert table.groups == ("docs", "code")
    np.testing.assert_array_equal(table.proportions[1], [0.0, 1.0])
    np.testing.assert_array_equal(table.losses[:, 0], [4.0, 5.0, 3.75])


HEAD = "p/a,p/b,loss/x\n"
WRONG_TEXT = {
    "empty.csv": ("", "empty.csv has no rows"),
    "head.csv": (HEAD, "head.csv has no rows"),
    "lines.jsonl": ("\n", "lines.jsonl has no rows"),
    "loss.csv": (HEAD + ".5,.5,1\n.5,.5,\n", "loss.csv:3: loss/x is missing"),
    "nan.csv": (HEAD + ".5,.5,NaN\n", "nan.csv:2: loss/x is missing"),
    "share.csv": (HEAD + ",1,1\n", "share.csv:2: p/a is missing"),
    "infinite.csv": (HEAD + ".5,.5,inf\n", "2: loss/x must be a finite number; got 'inf'"),
    "word.csv": (HEAD + ".5,.5,low\n", "2: loss/x must be a finite number; got 'low'"),
    "sum.csv": (HEAD + ".5,.5,1\n.5,.7,1\n", "sum.csv:3: proportions must sum to 1 .* got 1.2"),
    "negative.csv": (HEAD + "-.5,1.5,1\n", "negative.csv:2: p/a must be >= 0; got -0.5"),
    "percent.csv": (HEAD + "50,50,1\n", "percent.csv:2: proportions must sum to 1 .* got 100"),
    "ragged.csv": (HEAD + ".5,.5\n", "ragged.csv:2: 2 cells, the header has 3"),
    "twice.csv": ("p/a,p/a,loss/x\n.5,.5,1\n", "twice.csv has two columns p/a"),
    "quote.csv": (HEAD + '"a"b,1,1\n', "quote.csv is not CSV"),
    "other.csv": ("a,b,loss/x\n1,2,3\n", "has no column p/NAME; it has a, b, loss/x"),
    "noloss.csv": ("p/a,p/b\n.5,.5\n", "has no column loss/NAME; it has p/a, p/b"),
    "many.csv": (",".join("abcdefghij") + "\n" + "1," * 9 + "1", "it has a, .*, h and 2 more"),
    "bad.jsonl": ('{"p/a": 1}\n{"p/a"', "bad.jsonl:2: not a JSON object per line"),
    "list.jsonl": ("[1]\n", "list.jsonl:1: not a JSON object per line: got list"),
    "gap.jsonl": (
        '{"p": {"a": 1}, "loss": {"x": 1, "y": 1}}\n{"p": {"a": 1}, "loss": {"y": 1}}\n',
        "gap.jsonl:2: loss/x is missing",
    ),
    "bool.jsonl": ('{"p/a": 1, "loss/x": true}', "loss/x must be a finite number; got True"),
    "a.xlsx": ("", "a.xlsx must end in .csv, .jsonl, .json, .ndjson, .parquet, .npz, or"),
    "a.parquet.gz": ("", "a.parquet.gz must end in"),
    "text.parquet": ("no", "text.parquet: not a readable Parquet file"),
    "text.npz": ("no", "text.npz is not a readable npz archive"),
    "plain.csv.gz": (HEAD, "plain.csv.gz is not CSV"),
}


@pytest.mark.parametrize("name", WRONG_TEXT)
def test_what_is_wrong_with_a_file_is_named_with_its_place(name, tmp_path):
    text, says = WRONG_TEXT[name]
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=says) as caught:
        read_table(tmp_path / name)
    assert "\n" not in str(caught.value)


LOSSES = EXPECTED.losses
WRONG_ARRAYS = {
    "no array": ({"p": None}, "has no array p; it has loss, groups, targets"),
    "a vector": ({"loss": LOSSES[:, 0]}, r"loss must be a matrix of numbers.* shape \(3,\)"),
    "text": ({"loss": LOSSES.astype(str)}, "loss must be a matrix of numbers"),
    "other rows": ({"loss": LOSSES[:2]}, "p and loss must have as many rows; got 3 and 2"),
    "no rows": ({"p": np.zeros((0, 2)), "loss": np.zeros((0, 2))}, "has no rows"),
    "no columns": ({"loss": np.zeros((3, 0))}, "loss must be a matrix of numbers"),
    "a name short": ({"groups": ["code"]}, "groups must hold 2 different names.* got code"),
    "a name twice": ({"groups": ["code", "code"]}, "groups must hold 2 different names"),
    "objects": ({"loss": np.array([[None]])}, "is not a readable npz archive"),
    "nan": ({"loss": LOSSES * [[1], [np.nan], [1]]}, "row 2: loss/code is missing"),
}


@pytest.mark.parametrize("name", WRONG_ARRAYS)
def test_what_is_wrong_with_an_archive_is_named(name, tmp_path):
    changes, says = WRONG_ARRAYS[name]
    write_npz(tmp_path / "a.npz", **changes)
    with pytest.raises(ValueError, match=says):
        read_table(tmp_path / "a.npz")


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    for path in (tmp_path / "no.csv", tmp_path):
        with pytest.raises(FileNotFoundError, match=f"table {path} is not a file"):
            read_table(path)


def test_names_that_are_asked_for_must_be_there(tmp_path):
    write_npz(tmp_path / "a.npz")
    with pytest.raises(ValueError, match="no array domains; it has p, loss, groups, targets"):
        read_table(tmp_path / "a.npz", names=("domains", "targets"))


@pytest.mark.parametrize(
    ("groups", "targets", "says"),
    [
        (("code", "math"), ("web",), "lacks math and has docs besides"),
        (("code",), ("web",), "lacks none and has docs besides"),
        (("code", "docs"), ("math",), "must have the losses of math too; it has code, web"),
    ],
)
def test_a_table_of_other_groups_or_targets_is_refused(groups, targets, says):
    with pytest.raises(ValueError, match=f"^the test table .*{says}"):
        aligned(EXPECTED, groups, targets, "the test table")
