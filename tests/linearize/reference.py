"""Arrays of the released LoLCATs code, by case; a family that the file lacks is a skipped case."""

import jax
import numpy as np

from tests.reference_arrays import ReferenceArrays

_ARRAYS = ReferenceArrays("lolcats")
cases, get = _ARRAYS.cases, _ARRAYS.get
TOLERANCE = {"f32": 2e-5, "f64": 1e-9}  # of the greatest value


def has(name: str) -> bool:
    return name in _ARRAYS.held()


def tokens_first(x: np.ndarray) -> np.ndarray:
    """(b, heads, length, n) of the reference as (b, length, heads, n)."""
    return np.moveaxis(x, 1, 2)


def precision(kind: str):
    """The scope in which float64 stays float64, or not."""
    return jax.enable_x64(kind == "f64")


def close(found, expected, kind: str = "f64", tolerance: float | None = None):
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape
    assert found.dtype == {"f32": np.float32, "f64": np.float64}[kind]
    error = np.abs(found - expected).max()
    assert error <= (tolerance or TOLERANCE[kind]) * np.abs(expected).max(), error
