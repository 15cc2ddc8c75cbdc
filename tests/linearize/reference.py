"""Arrays of the released LoLCATs code, by case; a family that the file lacks is a skipped case."""

import re

import jax
import numpy as np
import pytest

from tests.conftest import golden_folder

ARRAYS = golden_folder() / "lolcats.npz"
TOLERANCE = {"f32": 2e-5, "f64": 1e-9}  # of the greatest value


def held() -> list[str]:
    if not ARRAYS.exists():
        return []
    with np.load(ARRAYS) as arrays:
        return sorted(arrays.files)


def cases(pattern: str) -> list:
    """What the pattern matches, its groups joined by "-": one parameter each."""
    matches = (re.fullmatch(pattern, name) for name in held())
    found = sorted({match.groups() for match in matches if match})
    if found:
        return [pytest.param(*groups, id="-".join(filter(None, groups))) for groups in found]
    groups = re.compile(pattern).groups
    reason = f"{ARRAYS} has no array {pattern}"
    return [pytest.param(*[None] * groups, id="none", marks=pytest.mark.skip(reason=reason))]


def get(*names: str) -> list[np.ndarray]:
    with np.load(ARRAYS) as arrays:
        for name in names:
            if name not in arrays.files:
                pytest.skip(f"{ARRAYS} lacks {name}")
        return [arrays[name] for name in names]


def has(name: str) -> bool:
    return name in held()


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
