"""Cases of the reference files, one pytest parameter each; with no case, one that is skipped."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import golden_folder, third_party_folder

ARRAYS, CASES = golden_folder() / "monkeys.npz", golden_folder() / "monkeys.json"


def names(pattern: str) -> list:
    """What the pattern's group matches in the names of the arrays."""
    found = []
    if ARRAYS.exists():
        with np.load(ARRAYS) as arrays:
            matches = (re.fullmatch(pattern, name) for name in arrays.files)
            found = sorted({match[1] for match in matches if match})
    return _parameters([(name, name) for name in found], f"{ARRAYS} has no array {pattern}")


def rows(name: str) -> list:
    """Row numbers of an array; the ids hold the rows."""
    found = []
    if ARRAYS.exists():
        with np.load(ARRAYS) as arrays:
            found = [] if name not in arrays.files else arrays[name].tolist()
    ids = [(f"{i:03}-" + "-".join(map(str, row)), i) for i, row in enumerate(found)]
    return _parameters(ids, f"{ARRAYS} has no array {name}")


def arrays_of(*wanted: str) -> list[np.ndarray]:
    if not ARRAYS.exists():
        pytest.skip(f"{ARRAYS} is not there")
    with np.load(ARRAYS) as arrays:
        for name in wanted:
            if name not in arrays.files:
                pytest.skip(f"{ARRAYS} lacks {name}")
        return [arrays[name] for name in wanted]


def entries(key: str, *fields: str, third_party: bool = False) -> list:
    """The entries of a list in the file of cases that have the fields."""
    path: Path | None = CASES
    if third_party:
        folder = third_party_folder()
        path = None if folder is None else folder / "monkeys.json"
    found = []
    if path is not None and path.exists():
        found = json.loads(path.read_text(encoding="utf-8")).get(key, [])
    items = [(f"{key}-{i:03}", e) for i, e in enumerate(found) if set(fields) <= set(e)]
    return _parameters(items, f"{path or 'JLAB_REFERENCE'} has no {key} with {', '.join(fields)}")


def settings(pattern: str) -> list:
    """(match of the pattern, value) for the keys of the file of cases."""
    held = json.loads(CASES.read_text(encoding="utf-8")) if CASES.exists() else {}
    found = [(key, (re.fullmatch(pattern, key), held[key])) for key in sorted(held)]
    found = [(key, item) for key, item in found if item[0]]
    return _parameters(found, f"{CASES} has no key {pattern}")


def _parameters(items: list[tuple], reason: str) -> list:
    if items:
        return [pytest.param(value, id=name) for name, value in items]
    return [pytest.param(None, id="none", marks=pytest.mark.skip(reason=reason))]
