"""Tables of runs: the proportions each run was trained on, and the losses that it came to.

One row is one run. CSV, JSON lines and Parquet have a column `p/GROUP` for every group and
`loss/TARGET` for everything evaluated (or, in records that nest, `{"p": {GROUP: ...}, ...}`);
other columns are left alone. An npz archive has the matrices `p` and `loss`, one row per run, and
the names in `groups` and `targets`. `p` and `loss` may be called otherwise.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from jlab.data.table_rows import Row, listed, read_rows

ROUNDING = 0.005  # shares of 17 groups, published with three digits, sum to 1 within this


class Table(NamedTuple):
    """Runs as arrays, float64, as they were written: proportions are not rescaled to sum to 1."""

    proportions: Float[np.ndarray, "runs groups"]
    losses: Float[np.ndarray, "runs targets"]
    groups: tuple[str, ...]  # names of what is trained on
    targets: tuple[str, ...]  # names of what is evaluated


def read_table(
    path: str | Path, columns: Sequence[str] = ("p", "loss"), names: Sequence[str] = ()
) -> Table:
    """Read and check a table of runs.

    Args:
      path: `.csv`, `.jsonl`, `.ndjson`, `.json` (JSON lines or one list), `.parquet` or `.npz`;
        `.gz` and `.zst` may follow all but the last two.
      columns: what the columns' names have before the `/`, in npz the names of the two matrices.
      names: npz only, the arrays that hold the names of groups and of targets; without them
        `groups` and `targets` where the file has them, else numbers from 1.

    Raises:
      FileNotFoundError: no such file.
      ValueError: another kind of file, a name that it lacks, no rows, a number that is missing, or
        proportions that are negative or do not sum to 1.
    """
    path = Path(path)
    rows = read_rows(path, columns, names)
    if not rows:
        raise ValueError(f"table {path} has no rows")
    return _table(path, rows, columns)


def aligned(table: Table, groups: Sequence[str], targets: Sequence[str], what: str) -> Table:
    """The table with its columns in the order of these names; further targets are left out.

    Args:
      table: the runs.
      groups: names that must be the table's, in any order.
      targets: names that the table must have among its own.
      what: what to call the table in a message.

    Raises:
      ValueError: other groups, or a target that is not there.
    """
    missing = [name for name in groups if name not in table.groups]
    more = [name for name in table.groups if name not in groups]
    if missing or more:
        raise ValueError(
            f"{what} must have the groups of the fitted runs; it lacks {listed(missing) or 'none'}"
            f" and has {listed(more) or 'none'} besides"
        )
    lacking = [name for name in targets if name not in table.targets]
    if lacking:
        has = listed(table.targets)
        raise ValueError(f"{what} must have the losses of {listed(lacking)} too; it has {has}")
    return Table(
        table.proportions[:, [table.groups.index(name) for name in groups]],
        table.losses[:, [table.targets.index(name) for name in targets]],
        tuple(groups),
        tuple(targets),
    )


def _table(path: Path, rows: list[Row], columns: Sequence[str]) -> Table:
    seen = list(dict.fromkeys(name for row in rows for name in row.cells))
    found = [
        [name for name in seen if name.startswith(f"{prefix}/") and name != f"{prefix}/"]
        for prefix in columns
    ]
    for prefix, its in zip(columns, found, strict=True):
        if not its:
            raise ValueError(f"table {path} has no column {prefix}/NAME; it has {listed(seen)}")
    p, losses = (np.array([[_number(row, name) for name in its] for row in rows]) for its in found)
    for row, shares in zip(rows, p, strict=True):
        _check_shares(row.where, found[0], shares)
    groups, targets = (
        tuple(name.removeprefix(f"{prefix}/") for name in its)
        for prefix, its in zip(columns, found, strict=True)
    )
    return Table(p, losses, groups, targets)


def _check_shares(where: str, names: list[str], shares: Float[np.ndarray, "groups"]) -> None:
    if shares.min() < 0:
        name = names[int(shares.argmin())]
        raise ValueError(f"{where}: {name} must be >= 0; got {shares.min():g}")
    if abs(shares.sum() - 1) > ROUNDING:
        allowed = f"must sum to 1 within {ROUNDING}"
        raise ValueError(f"{where}: proportions {allowed}; got {shares.sum():g}")


def _number(row: Row, name: str) -> float:
    value = row.cells.get(name)
    text = str(value).strip().lower()
    if value is None or text in ("", "nan", "na", "null", "none"):
        raise ValueError(f"{row.where}: {name} is missing")
    try:
        number = float("x" if isinstance(value, bool) else value)
    except (TypeError, ValueError):
        number = np.nan
    if not np.isfinite(number):
        raise ValueError(f"{row.where}: {name} must be a finite number; got {value!r}")
    return number
