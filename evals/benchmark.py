"""Rows of a benchmark: a local file, or a dataset of the Hugging Face hub by name."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from jlab.cli import UsageError
from jlab.data.table_rows import Row, listed, read_rows

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_SUFFIXES = (".jsonl", ".json", ".ndjson", ".csv", ".parquet", ".gz", ".zst")  # never a dataset's


def read_benchmark(
    flag: str, where: str, fields: Sequence[str], *, subset: str | None, split: str
) -> list[Row]:
    """All rows, each with texts in the given fields.

    Args:
      flag: name of the option that says where they are, for messages.
      where: `.jsonl`, `.json` (JSON lines), `.csv`, also `.gz` or `.zst`, or `.parquet`; or the
        name of a dataset, OWNER/NAME.
      fields: that every row must have.
      subset: of a dataset.
      split: of a dataset.

    Raises:
      UsageError, ValueError: nothing there, or rows that do not have the fields.
    """
    path = Path(where).expanduser()
    if path.is_file():
        rows = read_rows(path, (), ())
    elif _HUB_NAME.fullmatch(where) and not path.exists() and path.suffix not in _SUFFIXES:
        rows = _hub_rows(flag, where, subset, split)
    else:
        given = f"{where!r}, which is not there" if where else "nothing"
        raise UsageError(
            f"{flag} must be a file or a Hugging Face dataset such as owner/name; got {given}"
        )
    if not rows:
        raise ValueError(f"{flag}: {where} has no rows")
    for row in rows:
        _check(flag, row, fields)
    return rows


def _check(flag: str, row: Row, fields: Sequence[str]) -> None:
    for field in fields:
        if field not in row.cells:
            has = listed(list(row.cells)) or "none"
            raise ValueError(f"{flag}: {row.where}: no field {field!r}; the row has {has}")
        if not isinstance(row.cells[field], str) or not row.cells[field].strip():
            raise ValueError(
                f"{flag}: {row.where}: field {field!r} must be a text; got {row.cells[field]!r}"
            )


def _hub_rows(flag: str, name: str, subset: str | None, split: str) -> list[Row]:
    import datasets

    try:
        records: Sequence[Mapping] = datasets.load_dataset(name, subset, split=split)
        return [
            Row(f"{name}, {split}: row {number}", dict(record))
            for number, record in enumerate(records, 1)
        ]
    except Exception as error:  # network, name, subset, split: the library raises many kinds
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"{flag}: no file {name!r} here, and the Hugging Face hub says: {reason}"
        ) from error
