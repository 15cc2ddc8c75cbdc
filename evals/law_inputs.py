"""What `python -m evals mixing_laws` works on: checked tables, the objective, bounds on shares."""

import hashlib
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from jlab.data.table import Table, aligned, read_table
from jlab.mixing.cover import repetition_caps
from jlab.stats import check_bounds
from jlab.training.config import nearest


class Inputs(NamedTuple):
    """All that a command needs, read and checked before anything is computed."""

    runs: Table
    others: dict[str, Table]  # `test`, `transfer`: those that are given
    weights: Float[np.ndarray, "targets"]  # of the objective; they sum to 1
    floor: Float[np.ndarray, "groups"]
    cap: Float[np.ndarray, "groups"]
    sha256: dict[str, str]  # of the tables' files


def read_inputs(config) -> Inputs:
    """Tables, weights and bounds of a config of `evals.mixing_laws`.

    Raises:
      FileNotFoundError: a table is not there.
      ValueError: a table, a weight or a bound that cannot be used.
    """
    if "lightgbm" in config.laws:
        _check_lightgbm()
    files = _files(config)
    for path in dict.fromkeys(files.values()):
        print(f"reading {path}", file=sys.stderr, flush=True)
    runs = read_table(config.data, config.columns, config.names)
    _check_runs(config.data, runs)
    others = {
        part: _other(part, path, config, runs) for part, path in files.items() if part != "data"
    }
    weights = _numbers("weights", config.weights or [f"{t}=1" for t in runs.targets], runs.targets)
    if not weights.sum() > 0:
        raise ValueError("weights must not all be 0")
    floor, cap = _bounds(config, runs.groups)
    sha256 = {
        part: hashlib.sha256(Path(path).read_bytes()).hexdigest() for part, path in files.items()
    }
    return Inputs(runs, others, weights / weights.sum(), floor, cap, sha256)


def _check_lightgbm() -> None:
    try:
        importlib.import_module("lightgbm")
    except ImportError as error:
        how = "pip install 'jlab-research[regmix]'"
        raise ValueError(f"laws: lightgbm cannot be used ({error}): {how}") from None


def _files(config) -> dict[str, str]:
    """Paths of the tables; a part of which only the columns are named lies in the first."""
    files = {"data": config.data}
    for part in ("test", "transfer"):
        path, columns = getattr(config, part), getattr(config, f"{part}_columns")
        if path or columns:
            files[part] = path or config.data
    return files


def _other(part: str, path: str, config, runs: Table) -> Table:
    columns = getattr(config, f"{part}_columns") or config.columns
    table = read_table(path, columns, config.names)
    return aligned(table, runs.groups, runs.targets, f"{part} table {path}")


def _check_runs(path: str, runs: Table) -> None:
    if len(runs.groups) < 2:
        raise ValueError(f"{path}: a mixture is of at least 2 groups; got {runs.groups[0]} alone")
    if len(runs.losses) < len(runs.groups):
        raise ValueError(
            f"{path}: a law of {len(runs.groups)} groups needs at least {len(runs.groups)} runs;"
            f" got {len(runs.losses)}"
        )
    lowest, highest = runs.losses.min(0), runs.losses.max(0)
    if np.any(lowest == highest):
        name = runs.targets[int(np.argmax(lowest == highest))]
        raise ValueError(f"{path}: the loss of {name} is the same in every run: nothing to fit")


def _bounds(config, groups: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    cap = np.full(len(groups), config.cap)
    if config.tokens:
        # Whoever is not named has enough: a budget's worth caps a share at 1.
        tokens = _numbers("tokens", config.tokens, groups, config.budget)
        cap = np.minimum(cap, repetition_caps(tokens, config.budget, config.epochs))
    return check_bounds(config.floor, cap, len(groups))


def _numbers(
    field: str, entries: Sequence[str], known: Sequence[str], missing: float = 0.0
) -> Float[np.ndarray, "known"]:
    """Numbers written `NAME=NUMBER`, in the order of `known`."""
    values = dict.fromkeys(known, missing)
    for entry in entries:
        name, equals, text = entry.rpartition("=")
        number = _number(text)
        if not equals or not 0 <= number < np.inf:
            raise ValueError(f"{field}: each must be NAME=NUMBER, not negative; got {entry!r}")
        if name not in values:
            raise ValueError(f"{field}: no {name!r} in the table; {nearest(name, known)}")
        values[name] = number
    return np.array(list(values.values()))


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return np.nan
