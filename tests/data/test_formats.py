"""Each format gives back its documents, and each kind of damage is named by file and line."""

import gzip
import json
import tracemalloc

import pyarrow as pa
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from jlab.data.formats import read_file

TEXTS = ["first", "zwei\nlines", "trois ☃"]
COMPRESS = {".gz": gzip.compress, ".zst": zstandard.ZstdCompressor().compress}


def fail(problem):
    raise ValueError(problem)


def lines(texts):
    return "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".jsonl.zst", ".JSONL.GZ", ".json"])
def test_json_lines_are_read_in_order_compressed_or_not(tmp_path, suffix):
    path = tmp_path / f"a.b{suffix}"
    path.write_bytes(COMPRESS.get(path.suffix.lower(), bytes)(lines(TEXTS)))
    assert list(read_file(path, "text", fail)) == TEXTS


@pytest.mark.parametrize("suffix", [".txt", ".md", "", ".txt.gz", ".rst.zst"])
def test_any_other_file_is_one_document(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(COMPRESS.get(path.suffix, bytes)("\n".join(TEXTS).encode()))
    assert list(read_file(path, "text", fail)) == ["\n".join(TEXTS)]


def test_parquet_gives_the_named_field(tmp_path):
    path = tmp_path / "a.parquet"
    parquet.write_table(pa.table({"id": [1, 2, 3], "body": TEXTS}), path, row_group_size=2)
    assert list(read_file(path, "body", fail)) == TEXTS


def test_blank_lines_and_empty_texts_are_no_documents(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\n{"text": ""}\n\n{"text": "a"}')
    assert list(read_file(path, "text", fail)) == ["a"]


BAD_LINES = [
    (b'{"text": "cut', "not valid JSON: "),
    (b'{"text": "\xff"}', "not valid UTF-8 at byte 10"),
    (b'["text"]', "expected an object with the field 'text', got list"),
    (b'{"body": "a", "id": 1}', "no field 'text'; the record has 'body', 'id'"),
    (b"{}", "no field 'text'; the record has none"),
    (b'{"text": 3}', "field 'text' must be a string, got int"),
    (b'{"text": null}', "field 'text' must be a string, got NoneType"),
    (b'{"text": "\\ud800"}', "field 'text' is not valid Unicode"),
    (b"[" * 200_000, "not valid JSON: maximum recursion depth"),
]


@pytest.mark.parametrize(("line", "reason"), BAD_LINES, ids=[r[:30] for _, r in BAD_LINES])
def test_a_bad_line_is_named_by_file_line_and_reason_and_can_be_passed_over(tmp_path, line, reason):
    path = tmp_path / "a.jsonl"
    path.write_bytes(lines(["good"]) + line + b"\n" + lines(["also good"]))
    problems = []
    assert list(read_file(path, "text", problems.append)) == ["good", "also good"]
    (problem,) = problems
    assert problem.startswith(f"{path}:2: {reason}")


@given(st.lists(st.binary(max_size=30), max_size=5))
def test_no_bytes_do_worse_than_a_named_problem(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("any") / "a.jsonl"
    path.write_bytes(b"\n".join(data))
    problems = []
    texts = list(read_file(path, "text", problems.append))
    assert all(isinstance(text, str) for text in texts)
    assert len(texts) + len(problems) <= b"\n".join(data).count(b"\n") + 1


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_an_archive_cut_short_is_an_error_and_not_an_early_end(tmp_path, suffix):
    whole = COMPRESS[suffix](lines(str(n) * 9 for n in range(5000)))
    path = tmp_path / f"a.jsonl{suffix}"
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"a\.jsonl.*:\d+: cannot be read: Truncated"):
        list(read_file(path, "text", lambda problem: None))


def test_parquet_without_the_field_names_the_columns_it_has(tmp_path):
    path = tmp_path / "a.parquet"
    parquet.write_table(pa.table({"id": [1], "body": ["a"]}), path)
    with pytest.raises(ValueError, match=r"a\.parquet: no field 'text'; .* are 'id', 'body'"):
        list(read_file(path, "text", fail))


def test_a_parquet_row_without_text_is_named_by_its_number(tmp_path):
    path = tmp_path / "a.parquet"
    parquet.write_table(pa.table({"text": ["a", None]}), path)
    with pytest.raises(ValueError, match=r"row 2: field 'text' must be a string, got NoneType"):
        list(read_file(path, "text", fail))


def test_a_file_that_is_not_parquet_is_refused_by_name(tmp_path):
    path = tmp_path / "a.parquet"
    path.write_bytes(b"no parquet at all")
    with pytest.raises(ValueError, match=r"a\.parquet: not a readable Parquet file: "):
        list(read_file(path, "text", fail))


def test_a_binary_file_is_named(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"\x89PNG")
    with pytest.raises(ValueError, match=r"a\.png: not valid UTF-8 at byte 0"):
        list(read_file(path, "text", fail))


def test_reading_json_lines_takes_memory_for_one_line_only(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(lines(["x" * 1000] * 5000))
    tracemalloc.start()
    assert sum(1 for _ in read_file(path, "text", fail)) == 5000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 500_000  # the file has 5 MB; a read buffer and a line are under a tenth
