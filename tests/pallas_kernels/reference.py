"""Cases of the kernels' reference file, discovered by the prefix of their array names."""

import numpy as np
import pytest

from tests.conftest import golden_folder

ARRAYS = golden_folder() / "kernels.npz"


def cases(prefix: str) -> list:
    """One sorted pytest parameter per case; with no case, one that is skipped and says so."""
    names = []
    if ARRAYS.exists():
        with np.load(ARRAYS) as arrays:
            names = sorted({n.split("/")[0] for n in arrays.files if n.startswith(prefix)})
    if names:
        return [pytest.param(name, id=name) for name in names]
    reason = f"{ARRAYS} has no case {prefix}*"
    return [pytest.param(prefix, id=prefix, marks=pytest.mark.skip(reason=reason))]


class Case(dict):
    """Arrays of one case by name; asking for one that the file lacks skips the test."""

    def __missing__(self, name: str):
        pytest.skip(f"{ARRAYS} lacks the array {name}")


def arrays_of(case: str) -> Case:
    """All arrays of a case."""
    with np.load(ARRAYS) as arrays:
        found = {n.split("/", 1)[1]: arrays[n] for n in arrays.files if n.split("/")[0] == case}
    return Case(found)


def close(x, expected, tolerance: float) -> None:
    """Within `tolerance` of the largest magnitude that is expected."""
    x, expected = np.asarray(x, np.float64), np.asarray(expected, np.float64)
    assert x.shape == expected.shape
    assert np.abs(x - expected).max() <= tolerance * np.abs(expected).max()
