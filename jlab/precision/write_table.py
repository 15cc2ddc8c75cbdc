"""Write tables of runs that `jlab.precision.table` reads."""

import csv
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jlab.data.table_rows import listed
from jlab.precision.table import BITS, COLUMNS, REQUIRED

_NUMBERS = ("N", "D", *BITS, "Ppost", "loss")


def write_table(path: str | Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows as `read_table` reads them, at once: readers see the old file or the new one.

    Args:
        path: `.parquet` or `.csv`.
        rows: values by column, further columns as well; None, NaN and infinite numbers are left
            empty.

    Raises:
        ValueError: another kind of file, no rows, or a row without a required column.
    """
    path = Path(path)
    kinds = {".csv": _write_csv, ".parquet": _write_parquet}
    if path.suffix not in kinds:
        raise ValueError(f"table {path} must end in .parquet or .csv")
    rows = [dict(row) for row in rows]
    if not rows:
        raise ValueError(f"table {path} must have rows; got none")
    for number, row in enumerate(rows, 1):
        lacking = [name for name in REQUIRED if name not in row]
        if lacking:
            raise ValueError(f"row {number} for {path} lacks {listed(lacking)}")
    names = list(dict.fromkeys([*COLUMNS, *(name for row in rows for name in row)]))
    columns = {name: [_known(row.get(name)) for row in rows] for name in names}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        kinds[path.suffix](partial, columns)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _known(value: Any) -> Any:
    """None for what the table leaves empty; plain Python for NumPy's scalars."""
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _write_csv(path: Path, columns: dict[str, list]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))  # None is written as nothing


def _write_parquet(path: Path, columns: dict[str, list]) -> None:
    import pyarrow
    from pyarrow import parquet

    arrays = {
        name: pyarrow.array(values, pyarrow.float64() if name in _NUMBERS else None)
        for name, values in columns.items()
    }
    parquet.write_table(pyarrow.table(arrays), path)
