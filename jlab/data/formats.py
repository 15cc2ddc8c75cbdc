"""File formats: one file in, its documents out, one at a time.

Text files are one document each; JSON lines and Parquet hold one per record, in a named field.
Records and compressed bytes are streamed, so memory does not grow with the file.
"""

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path

Bad = Callable[[str], None]  # hears of every bad record; raises or counts

_JSON_LINES = (".jsonl", ".json", ".ndjson")
_COMPRESSED = {".gz": "gzip", ".zst": "zstd"}


def read_file(path: Path, text_field: str, bad: Bad) -> Iterator[str]:
    """Yield the documents of one file, in the file's order; empty ones are left out.

    Args:
      path: `.jsonl`, `.json`, `.ndjson` (JSON lines), `.parquet`, or anything else as one text;
        `.gz` and `.zst` may follow all but `.parquet`.
      text_field: the field of a record that holds the text.
      bad: called with one line for each record that cannot be read; if it returns, reading goes on.

    Raises:
      ValueError: a damaged archive, or a Parquet file that cannot be opened or lacks the field.
    """
    compressed = path.suffix.lower() in _COMPRESSED
    kind = (path.with_suffix("") if compressed else path).suffix.lower()
    if kind == ".parquet":
        texts = _parquet(path, text_field, bad)
    elif kind in _JSON_LINES:
        texts = _json_lines(path, text_field, bad)
    else:
        texts = _whole(path, bad)
    return (text for text in texts if text)


def text_problem(record: object, text_field: str) -> str | None:
    """What is wrong with a record's text, in a few words; None if it is a proper string."""
    if not isinstance(record, dict):
        return f"expected an object with the field {text_field!r}, got {type(record).__name__}"
    if text_field not in record:
        return f"no field {text_field!r}; the record has {', '.join(map(repr, record)) or 'none'}"
    text = record[text_field]
    if not isinstance(text, str):
        return f"field {text_field!r} must be a string, got {type(text).__name__}"
    try:
        text.encode()
    except UnicodeEncodeError:  # JSON can spell half of a surrogate pair
        return f"field {text_field!r} is not valid Unicode"
    return None


def reason(error: Exception) -> str:
    """The first line of what an error says, or its kind where it says nothing; for a message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _open(path: Path) -> io.BufferedIOBase:
    compression = _COMPRESSED.get(path.suffix.lower())
    if compression is None:
        return path.open("rb")
    # Arrow's reader, because it notices a zstd stream that was cut short.
    import pyarrow

    return io.BufferedReader(pyarrow.input_stream(str(path), compression=compression))


def _json_lines(path: Path, text_field: str, bad: Bad) -> Iterator[str]:
    number = 0
    try:
        with _open(path) as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                record, problem = _parse(line)
                problem = problem or text_problem(record, text_field)
                if problem:
                    bad(f"{path}:{number}: {problem}")
                else:
                    yield record[text_field]
    except OSError as error:
        raise ValueError(f"{path}:{number + 1}: cannot be read: {error}") from error


def _parse(line: bytes) -> tuple[object, str | None]:
    try:
        return json.loads(line.decode()), None
    except UnicodeDecodeError as error:
        return None, f"not valid UTF-8 at byte {error.start}"
    except (ValueError, RecursionError) as error:
        return None, f"not valid JSON: {error}"


def _whole(path: Path, bad: Bad) -> Iterator[str]:
    try:
        with _open(path) as file:
            data = file.read()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error}") from error
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        bad(f"{path}: not valid UTF-8 at byte {error.start}; text, JSON lines or Parquet is needed")
        return
    yield text


def _parquet(path: Path, text_field: str, bad: Bad) -> Iterator[str]:
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path, pre_buffer=False) as file:
            columns = file.schema_arrow.names
            if text_field not in columns:
                has = ", ".join(map(repr, columns))
                raise ValueError(f"{path}: no field {text_field!r}; the columns are {has}")
            row = 0
            for rows in file.iter_batches(batch_size=256, columns=[text_field]):
                for record in rows.to_pylist():
                    row += 1
                    problem = text_problem(record, text_field)
                    if problem:
                        bad(f"{path}: row {row}: {problem}")
                    else:
                        yield record[text_field]
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{path}: not a readable Parquet file: {reason(error)}") from error
