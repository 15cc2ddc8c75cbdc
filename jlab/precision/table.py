"""Tables of trained runs and of their quantisations after training: one row each.

| column | in it | if absent or empty |
|---|---|---|
| `run` | name of the trained run | an error |
| `N`, `D` | non-embedding parameters, tokens | an error |
| `loss` | validation loss, nats per token | the run is missing, or failed |
| `Pw`, `Pa`, `Pkv` | bits in training (a number; inf too) | not quantised |
| `method` | `rtn`, `gptq` or `awq` | the trained model itself |
| `Ppost` | bits of the weights after training | not quantised |
| `seed` | a number | 0 |

Other columns are left alone.
"""

import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from jlab.data.table_rows import Row, listed, read_rows

REQUIRED = ("run", "N", "D", "loss")
BITS = ("Pw", "Pa", "Pkv")
COLUMNS = ("run", "seed", "N", "D", *BITS, "method", "Ppost", "loss")
METHODS = ("rtn", "gptq", "awq")
_EMPTY = ("", "na", "null", "none")


class Table(NamedTuple):
    """Rows as arrays; not quantised is inf, a missing loss NaN."""

    run: np.ndarray  # names
    seed: Float[np.ndarray, "rows"]
    N: Float[np.ndarray, "rows"]
    D: Float[np.ndarray, "rows"]
    Pw: Float[np.ndarray, "rows"]
    Pa: Float[np.ndarray, "rows"]
    Pkv: Float[np.ndarray, "rows"]
    method: np.ndarray  # "" for the trained model itself
    Ppost: Float[np.ndarray, "rows"]
    loss: Float[np.ndarray, "rows"]

    @classmethod
    def of(cls, N, D, loss, Pw=np.inf, Pa=np.inf, Pkv=np.inf) -> "Table":
        """Trained runs from arrays that broadcast; they are called 1, 2, ..."""
        numbers = np.broadcast_arrays(*(np.asarray(x, np.float64) for x in (N, D, Pw, Pa, Pkv)))
        loss = np.asarray(loss, np.float64)
        N, D, *bits = (np.broadcast_to(x, loss.shape) for x in numbers)
        names = np.arange(1, len(loss) + 1).astype(str)
        return cls(
            names,
            np.zeros(len(loss)),
            N,
            D,
            *bits,
            np.full(len(loss), ""),
            np.full(len(loss), np.inf),
            loss,
        )

    def rows(self, chosen: np.ndarray) -> "Table":
        """Some of the rows, by their numbers or by a mask."""
        return Table(*(column[chosen] for column in self))

    @property
    def trained(self) -> Bool[np.ndarray, "rows"]:
        """Which rows are trained models that have a loss."""
        return (self.method == "") & np.isfinite(self.loss)

    @property
    def missing(self) -> list[str]:
        """Names of the runs, and of their quantisations, that have no loss."""
        without = self.rows(~np.isfinite(self.loss))
        each = zip(without.run, without.method, without.Ppost, strict=True)
        return [f"{run} {method} {P:g} bits" if method else run for run, method, P in each]

    @property
    def empty_cells(self) -> list[str]:
        """Pairs of a size and a number of tokens that both occur, without a run that has a loss."""
        done = self.rows(self.trained)
        filled = set(zip(done.N.tolist(), done.D.tolist(), strict=True))
        cells = [(N, D) for N in np.unique(self.N) for D in np.unique(self.D)]
        return [f"N={N:.4g} D={D:.4g}" for N, D in cells if (N, D) not in filled]

    def degradation(self, method: str) -> tuple["Table", Float[np.ndarray, "rows"]]:
        """Rows quantised by a method, with the rise of their losses over that of their runs.

        Those are left out that lack one of the two losses.
        """
        done = self.rows(self.trained)
        before = dict(zip(done.run, done.loss, strict=True))
        rows = self.rows((self.method == method) & np.isfinite(self.loss))
        rows = rows.rows(np.array([run in before for run in rows.run], bool))
        return rows, rows.loss - np.array([before[run] for run in rows.run])


def read_table(path: str | Path) -> Table:
    """Read and check a table.

    Args:
        path: `.parquet`, `.csv` or `.jsonl` (`.gz` or `.zst` may follow the last two).

    Raises:
        FileNotFoundError: no such file.
        ValueError: a column that is missing or looks misspelt, no rows, a value that is none, two
            rows of the same, or a quantisation of a run that is not there or differs from it.
    """
    path = Path(path)
    if path.suffix == ".npz":
        raise ValueError(f"table {path} must end in .parquet, .csv or .jsonl")
    rows = read_rows(path, (), ())
    if not rows:
        raise ValueError(f"table {path} has no rows")
    _check_columns(path, list(dict.fromkeys(name for row in rows for name in row.cells)))
    values = [_values(row) for row in rows]
    _check_pairs([row.where for row in rows], values)
    columns = ([value[name] for value in values] for name in COLUMNS)
    return Table(*(np.array(column) for column in columns))


def _check_columns(path: Path, found: list[str]) -> None:
    lacking = [name for name in REQUIRED if name not in found]
    if lacking:
        raise ValueError(f"table {path} has no column {listed(lacking)}; it has {listed(found)}")
    meant = {name.lower(): name for name in COLUMNS}
    for name in found:
        # A misspelt column of bits would otherwise count as one of runs that are not quantised.
        known = meant.get(name.lower().replace("_", "").replace(" ", ""))
        if known and name != known:
            raise ValueError(f"table {path}: column {name!r} must be called {known!r}")


def _values(row: Row) -> dict[str, Any]:
    run, method = (_text(row.cells.get(name)) for name in ("run", "method"))
    if not run:
        raise ValueError(f"{row.where}: run is missing")
    if method and method not in METHODS:
        allowed = f"must be empty or one of {', '.join(METHODS)}"
        raise ValueError(f"{row.where}: method {allowed}; got {method!r}")
    found = {"run": run, "method": method, "seed": _number(row, "seed", 0.0)}
    found |= {name: _number(row, name, None) for name in ("N", "D")}
    found |= {name: _number(row, name, math.inf) for name in (*BITS, "Ppost")}
    # A failed run has NaN here, and nothing in the file, where NaN would hide an accident.
    found["loss"] = _number(row, "loss", math.nan)
    for name in ("N", "D", *BITS, "Ppost", "loss"):
        if found[name] <= 0 or (name in ("N", "D", "loss") and math.isinf(found[name])):
            allowed = "positive" if name in (*BITS, "Ppost") else "positive and finite"
            raise ValueError(f"{row.where}: {name} must be {allowed}; got {found[name]:g}")
    if bool(method) != math.isfinite(found["Ppost"]):
        got = f"method {method!r} and Ppost {found['Ppost']:g}"
        raise ValueError(f"{row.where}: method and Ppost must be given together; got {got}")
    return found


def _check_pairs(where: list[str], values: list[dict[str, Any]]) -> None:
    """Every row once, and every quantisation beside the run that it was made of."""
    seen: dict[tuple, str] = {}
    trained = {value["run"]: value for value in values if not value["method"]}
    for place, value in zip(where, values, strict=True):
        key = (value["run"], value["method"], value["Ppost"])
        what = f"run {value['run']!r}"
        if value["method"]:
            what += f" by {value['method']} to {value['Ppost']:g} bits"
        if key in seen:
            raise ValueError(f"{place}: {what} is there already ({seen[key]})")
        seen[key] = place
        if value["run"] not in trained:
            raise ValueError(f"{place}: {what} has no row of the trained run itself")
        base = trained[value["run"]]
        for name in ("N", "D", *BITS):
            if value[name] != base[name]:
                raise ValueError(
                    f"{place}: {name} must be that of the trained run, {base[name]:g}; "
                    f"got {value[name]:g}"
                )


def _number(row: Row, name: str, empty: float | None) -> float:
    """The number in a cell; `empty` where there is none, which None does not allow."""
    value = row.cells.get(name)
    if _text(value).lower() in _EMPTY:
        if empty is None:
            raise ValueError(f"{row.where}: {name} is missing")
        return empty
    try:
        number = float("x" if isinstance(value, bool) else value)
    except (TypeError, ValueError):
        number = math.nan
    if math.isnan(number) or (name == "seed" and number % 1 != 0):
        kind = "a whole number" if name == "seed" else "a number"
        allowed = kind if empty is None else f"{kind} or empty"
        raise ValueError(f"{row.where}: {name} must be {allowed}; got {value!r}")
    return number


def _text(value: Any) -> str:
    return "" if value is None else str(value).strip()
