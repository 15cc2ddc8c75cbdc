"""Records with texts in named fields: of a local file, or of a Hugging Face dataset by its name."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from jlab.data.formats import reason, text_problem
from jlab.data.table_rows import Row, read_rows

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_SUFFIXES = (".jsonl", ".json", ".ndjson", ".csv", ".parquet", ".gz", ".zst")  # never a dataset's


def read_records(
    flag: str, where: str, fields: Sequence[str], *, subset: str | None, split: str
) -> list[Row]:
    """All records, each with a text in every one of the given fields.

    Args:
      flag: name of the option that says where they are, for messages.
      where: `.jsonl`, `.ndjson`, `.json` (JSON lines or one list of objects), `.csv`, also `.gz` or
        `.zst`, or `.parquet`; or the name of a dataset, OWNER/NAME.
      fields: that no record may lack or leave empty.
      subset: of a dataset.
      split: of a dataset.

    Raises:
      ValueError: nothing there, or records that do not have the fields.
    """
    path = Path(where).expanduser()
    known = path.suffix.lower() in _SUFFIXES
    if path.is_file() and not known:
        raise ValueError(f"{flag}: a file must end in {', '.join(_SUFFIXES)}; got {where!r}")
    if path.is_file():
        rows = read_rows(path, (), ())
    elif _HUB_NAME.fullmatch(where) and not path.exists() and not known:
        rows = _hub_rows(flag, where, subset, split)
    else:
        given = f"{where!r}, which is not there" if where else "nothing"
        raise ValueError(
            f"{flag} must be a file or a Hugging Face dataset such as owner/name; got {given}"
        )
    if not rows:
        raise ValueError(f"{flag}: {where} has no rows")
    for row in rows:
        for field in fields:
            _check(flag, row, field)
    return rows


def _check(flag: str, row: Row, field: str) -> None:
    problem = text_problem(row.cells, field)
    if problem is None and not row.cells[field].strip():
        problem = f"field {field!r} is empty"
    if problem is not None:
        raise ValueError(f"{flag}: {row.where}: {problem}")


def _hub_rows(flag: str, name: str, subset: str | None, split: str) -> list[Row]:
    import datasets

    try:
        records: Sequence[Mapping] = datasets.load_dataset(name, subset, split=split)
        return [
            Row(f"{name}, {split}: row {number}", dict(record))
            for number, record in enumerate(records, 1)
        ]
    except Exception as error:  # network, name, subset, split: the library raises many kinds
        raise ValueError(
            f"{flag}: no file {name!r} here, and the Hugging Face hub says: {reason(error)}"
        ) from error
