"""Cases of the reference file, discovered by the prefix of their array names."""

import json

import numpy as np
import pytest

from tests.conftest import golden_folder

ARRAYS, SETTINGS = golden_folder() / "mixing.npz", golden_folder() / "mixing_config.json"


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


def arrays_of(case: str, *fields: str) -> list[np.ndarray]:
    with np.load(ARRAYS) as arrays:
        for field in fields:
            if f"{case}/{field}" not in arrays.files:
                pytest.skip(f"{ARRAYS} lacks {case}/{field}")
        return [arrays[f"{case}/{field}"] for field in fields]


def settings_of(case: str, *fields: str) -> list:
    settings = json.loads(SETTINGS.read_text()).get(case, {}) if SETTINGS.exists() else {}
    for field in fields:
        if field not in settings:
            pytest.skip(f"{SETTINGS} lacks {field} of {case}")
    return [settings[field] for field in fields]
