"""Kinds of table files: one file in, its rows out, each as cells by name with its place.

CSV, JSON lines and Parquet name their columns; the rows of an npz archive's matrices are given the
same names, so that all kinds are checked alike.
"""

import csv
import io
import json
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

_COMPRESSED = {".gz": "gzip", ".zst": "zstd"}
_LISTED = 8  # names in a message of one line


class Row(NamedTuple):
    """One row of a table."""

    where: str  # file and line, for messages
    cells: dict[str, Any]  # what stands in each column: text, numbers, None


def read_rows(path: Path, columns: Sequence[str], names: Sequence[str]) -> list[Row]:
    """All rows of a file; `columns` and `names` as `jlab.data.table.read_table` has them.

    Raises:
      FileNotFoundError: no such file.
      ValueError: another kind of file, or one that cannot be read.
    """
    if not path.is_file():
        raise FileNotFoundError(f"table {path} is not a file")
    compressed = path.suffix.lower() in _COMPRESSED
    kind = (path.with_suffix("") if compressed else path).suffix.lower()
    if kind not in (_STREAMED if compressed else _READERS):
        known = f"{', '.join(_READERS)}, or one of {', '.join(_STREAMED)} with .gz or .zst"
        raise ValueError(f"table {path} must end in {known}")
    if kind == ".npz":
        return _npz(path, columns, names)
    return list(_READERS[kind](path))


def list_rows(path: Path, items: Sequence[Any]) -> list[Row]:
    """Rows of a list that a JSON file holds.

    Raises:
      ValueError: one of them is not an object.
    """
    for number, item in enumerate(items, 1):
        if not isinstance(item, dict):
            raise ValueError(f"{path}: row {number} must be an object; got {item!r:.40}")
    return [Row(f"{path}: row {number}", _flat(item)) for number, item in enumerate(items, 1)]


def listed(names: Sequence[str]) -> str:
    """Names with commas, for a message of one line."""
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


def _open(path: Path) -> io.BufferedReader:
    import pyarrow

    compression = _COMPRESSED.get(path.suffix.lower())
    return io.BufferedReader(pyarrow.input_stream(str(path), compression=compression))


def _csv(path: Path) -> Iterator[Row]:
    try:
        with io.TextIOWrapper(_open(path), encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            head = [name.strip() for name in next(reader, [])]
            twice = {name for name in head if head.count(name) > 1}
            if twice:
                raise ValueError(f"table {path} has two columns {listed(sorted(twice))}")
            for cells in filter(None, reader):
                where = f"{path}:{reader.line_num}"
                if len(cells) != len(head):
                    raise ValueError(f"{where}: {len(cells)} cells, the header has {len(head)}")
                yield Row(where, dict(zip(head, cells, strict=True)))
    except (csv.Error, UnicodeDecodeError, OSError) as error:
        raise ValueError(f"table {path} is not CSV: {error}") from error


def _json(path: Path) -> Iterable[Row]:
    """One list of objects, or an object per line."""
    items = None
    try:
        with _open(path) as file:
            if file.peek().lstrip().startswith(b"["):
                items = json.load(file)
    except (ValueError, OSError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    return _json_lines(path) if items is None else list_rows(path, items)


def _json_lines(path: Path) -> Iterator[Row]:
    number = 0
    try:
        with _open(path) as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield Row(f"{path}:{number}", _flat(json.loads(line)))
    except (ValueError, OSError, RecursionError) as error:
        raise ValueError(f"{path}:{number}: not a JSON object per line: {error}") from error


def _parquet(path: Path) -> Iterator[Row]:
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            records = file.read().to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path}: not a readable Parquet file: {reason}") from error
    for number, record in enumerate(records, 1):
        yield Row(f"{path}: row {number}", _flat(record))


def _flat(record: dict) -> dict[str, Any]:
    """Cells of a record by name, those of a nested object by `OUTER/INNER`."""
    if not isinstance(record, dict):
        raise ValueError(f"got {type(record).__name__}")
    cells = {}
    for name, value in record.items():
        inner = value if isinstance(value, dict) else None
        cells |= {name: value} if inner is None else {f"{name}/{x}": y for x, y in inner.items()}
    return cells


def _npz(path: Path, columns: Sequence[str], names: Sequence[str]) -> list[Row]:
    try:
        with np.load(path) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"table {path} is not a readable npz archive: {error}") from error
    for name in (*columns, *names):
        if name not in arrays:
            raise ValueError(f"table {path} has no array {name}; it has {listed(list(arrays))}")
    matrices = [arrays[name] for name in columns]
    for name, matrix in zip(columns, matrices, strict=True):
        if matrix.ndim != 2 or matrix.dtype.kind not in "fiu" or not matrix.shape[1]:
            raise ValueError(
                f"{path}: {name} must be a matrix of numbers, one row per run; "
                f"got {matrix.dtype} of shape {matrix.shape}"
            )
    if len(matrices[0]) != len(matrices[1]):
        lengths = " and ".join(map(str, map(len, matrices)))
        raise ValueError(f"{path}: {' and '.join(columns)} must have as many rows; got {lengths}")
    labels = [
        [f"{column}/{name}" for name in _names(path, arrays, chosen, matrix.shape[1])]
        for column, matrix, chosen in zip(columns, matrices, names or _NAMES, strict=True)
    ]
    return [
        Row(f"{path}: row {i + 1}", dict(zip(labels[0] + labels[1], [*p, *loss], strict=True)))
        for i, (p, loss) in enumerate(zip(*(m.tolist() for m in matrices), strict=True))
    ]


def _names(path: Path, arrays: dict[str, np.ndarray], chosen: str, count: int) -> list[str]:
    """Strings of the array `chosen`; numbers from 1 where the file has none of that name."""
    found = [str(name) for name in np.ravel(arrays.get(chosen, np.arange(1, count + 1)))]
    if len(found) != count or len(set(found)) < count:
        raise ValueError(
            f"{path}: {chosen} must hold {count} different names, one per column; got "
            f"{listed(found)}"
        )
    return found


_NAMES = ("groups", "targets")  # arrays of names in npz, unless others are chosen
_STREAMED = {".csv": _csv, ".jsonl": _json_lines, ".json": _json, ".ndjson": _json_lines}
_READERS = {**_STREAMED, ".parquet": _parquet, ".npz": _npz}
