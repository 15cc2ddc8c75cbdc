"""Arrays of the reference file about laws; a case is what stands before the array's last name."""

import numpy as np
import pytest

from tests.conftest import golden_folder

ARRAYS = golden_folder() / "precision.npz"
BITS = ("Pw", "Pa", "Pkv")


def names() -> list[str]:
    """All array names; none where the file is not there."""
    if not ARRAYS.exists():
        return []
    with np.load(ARRAYS) as arrays:
        return sorted(arrays.files)


def cases(prefix: str, ending: str) -> list:
    """One parameter per array `PREFIX*ENDING`, named by what stands between."""
    found = [n for n in names() if n.startswith(prefix) and n.endswith(ending)]
    middles = [name[len(prefix) : len(name) - len(ending)] for name in found]
    if middles:
        return [pytest.param(middle, id=f"{prefix}{middle}{ending}") for middle in middles]
    reason = f"{ARRAYS} has no array {prefix}*{ending}"
    return [pytest.param("", id=prefix, marks=pytest.mark.skip(reason=reason))]


def arrays_of(*wanted: str) -> list[np.ndarray]:
    """Arrays by name; skips, with the reason, what the file lacks."""
    there = names()
    for name in wanted:
        if name not in there:
            pytest.skip(f"{ARRAYS} lacks {name}")
    with np.load(ARRAYS) as arrays:
        return [arrays[name] for name in wanted]
