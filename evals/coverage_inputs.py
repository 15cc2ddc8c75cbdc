"""What `python -m evals coverage` works on: counts per problem, from evaluations or tables."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from evals.coverage_report import Answers, check_counts
from jlab.cli import UsageError

COLUMNS = ("problem", "n", "correct")
TABLES = (".csv", ".jsonl", ".json", ".ndjson", ".parquet")
_TRUE, _FALSE = {"true", "1", "yes"}, {"false", "0", "no"}


class Counted(NamedTuple):
    """Samples of one subject, counted."""

    label: str
    names: list[str]
    n: Int[np.ndarray, "p"]
    correct: Int[np.ndarray, "p"]
    answers: Answers | None = None


def read_subject(subject: str, columns: Sequence[str] = COLUMNS) -> Counted:
    """Counts of a table, or of the folder of an evaluation by sampling.

    Args:
        subject: a table (see `TABLES`), or a folder with the `summary.json` of an evaluation.
        columns: of a table: the problem, its number of samples, the correct ones. Without the
            second (an empty name) every row is one sample, and the third says whether it is right.

    Raises:
        FileNotFoundError: no such file or folder.
        ValueError: one line with file, row and what is wrong.
    """
    path = Path(subject)
    if path.is_dir():
        return _evaluation(path)
    if not path.is_file():
        raise FileNotFoundError(f"{subject} is neither a file nor a folder")
    if path.with_suffix("" if path.suffix in (".gz", ".zst") else path.suffix).suffix not in TABLES:
        known = ", ".join(TABLES)
        raise ValueError(f"table {path} must end in {known}, or be a folder of an evaluation")
    rows = _rows(path)
    if not rows:
        raise ValueError(f"table {path} is empty: it has no row")
    counts = _samples(rows, columns) if not columns[1] else _problems(rows, columns)
    names, n, correct = counts
    try:
        n, correct = check_counts(names, np.array(n), np.array(correct))
    except ValueError as error:
        raise ValueError(f"table {path}: {error}") from None
    return Counted(path.name.partition(".")[0], names, n, correct)


def _rows(path: Path) -> list:
    """Rows of a table; a `.json` file may also hold `{"problems": [...]}`."""
    from jlab.data.table_rows import list_rows, read_rows

    if path.suffix == ".json":
        try:
            value = json.loads(path.read_text())
        except (ValueError, UnicodeDecodeError):
            value = None  # JSON lines; what is wrong with them is said by their line
        if isinstance(value, dict) and isinstance(value.get("problems"), list):
            return list_rows(path, value["problems"])
    return read_rows(path, (), ())


def _problems(rows: list, columns: Sequence[str]) -> tuple[list, list, list]:
    """One row per problem."""
    names, n, correct, seen = [], [], [], set()
    for row in rows:
        name, tries, right = (_cell(row, column) for column in columns)
        if str(name) in seen:
            raise ValueError(f"{row.where}: problem {name} is there twice")
        seen.add(str(name))
        names.append(str(name))
        n.append(_whole(row.where, columns[1], tries))
        correct.append(_whole(row.where, columns[2], right))
        if not 0 <= correct[-1] <= n[-1]:
            raise ValueError(
                f"{row.where}: {columns[2]} must be in [0, {columns[1]} = {n[-1]}]; got"
                f" {correct[-1]}"
            )
    return names, n, correct


def _samples(rows: list, columns: Sequence[str]) -> tuple[list, list, list]:
    """One row per sample, as in the results of human-eval: counted."""
    counts: dict[str, list[int]] = {}
    for row in rows:
        of_problem = counts.setdefault(str(_cell(row, columns[0])), [0, 0])
        of_problem[0] += 1
        of_problem[1] += _truth(row.where, columns[2], _cell(row, columns[2]))
    n, correct = zip(*counts.values(), strict=True)
    return list(counts), list(n), list(correct)


def _cell(row: Any, column: str) -> Any:
    if column not in row.cells:
        from jlab.data.table_rows import listed

        raise ValueError(
            f"{row.where}: there is no column {column!r}; it has {listed(list(row.cells))}"
            " (--columns names others)"
        )
    return row.cells[column]


def _whole(where: str, column: str, value: Any) -> int:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if isinstance(value, bool) or not math.isfinite(number) or number != math.floor(number):
        raise ValueError(f"{where}: {column} must be a whole number; got {value!r}")
    return int(number)


def _truth(where: str, column: str, value: Any) -> bool:
    word = str(value).strip().lower()
    if word not in _TRUE | _FALSE:
        raise ValueError(f"{where}: {column} must be true or false; got {value!r}")
    return word in _TRUE


def _evaluation(folder: Path) -> Counted:
    """What `write_report` kept in the folder of an evaluation."""
    path = folder / "summary.json"
    try:
        rows = json.loads(path.read_text())["problems"]
        counts = [[row[name] for row in rows] for name in COLUMNS]
    except (OSError, ValueError, KeyError, TypeError):
        raise UsageError(
            f"{folder} has no counts: it must be a finished run of `train arithmetic`, of `evals"
            " gsm8k` or of `evals humaneval`; or give a table"
        ) from None
    names, n, correct = counts
    n, correct = check_counts(names, np.array(n), np.array(correct))
    return Counted(_label(folder), names, n, correct)


def _label(folder: Path) -> str:
    parts = folder.resolve().parts
    return "/".join(parts[-2:])
