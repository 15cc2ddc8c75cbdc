"""Arrays of the released code of GPTQ and AWQ, by case; what the file lacks is a skipped case."""

import json
import re

import jax
import numpy as np
import pytest

from tests.conftest import golden_folder

ARRAYS = golden_folder() / "precision.npz"
DTYPES = {"f32": np.float32, "f64": np.float64}
TOLERANCE = {"f32": 1e-5, "f64": 1e-9}


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
        return [pytest.param(*groups, id="-".join(groups)) for groups in found]
    groups = re.compile(pattern).groups
    reason = f"{ARRAYS} has no array {pattern}"
    return [pytest.param(*[None] * groups, id="none", marks=pytest.mark.skip(reason=reason))]


def get(*names: str) -> list[np.ndarray]:
    with np.load(ARRAYS) as arrays:
        for name in names:
            if name not in arrays.files:
                pytest.skip(f"{ARRAYS} lacks {name}")
        return [arrays[name] for name in names]


def settings(case: str) -> dict:
    """What the file says of a case of GPTQ."""
    return json.loads(str(get("gptq.cfgs")[0]))[int(case)]


def precision(bits: str):
    """The scope in which float64 stays float64, or not."""
    return jax.enable_x64(bits == "f64")
