"""Strictness that every test runs under, and where reference values come from."""

import os
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import jax
import numpy as np
import pytest
from hypothesis import settings

jax.config.update("jax_numpy_rank_promotion", "raise")
# Compilation makes a first example slow; the laws are about values, not time.
settings.register_profile("jlab", deadline=None, max_examples=25, derandomize=True)
settings.load_profile("jlab")

_MAPS = Path("/proc/self/maps")
_MANY_MAPS = 15_000  # the longest test module adds some ten thousand


def golden_folder() -> Path:
    """Folder of the reference numbers: `JLAB_GOLDEN` where set, else the copies kept here."""
    return Path(os.environ.get("JLAB_GOLDEN", Path(__file__).parent / "golden"))


def third_party_folder() -> Path | None:
    """Folder of reference data that is not ours to copy: `JLAB_GOLDEN`, else `JLAB_REFERENCE`."""
    named = os.environ.get("JLAB_GOLDEN") or os.environ.get("JLAB_REFERENCE")
    return Path(named) if named else None


@pytest.fixture(scope="module", autouse=True)
def _programs_of_earlier_modules():
    """Drops them: each compiled program takes some of the 65530 memory maps of a Linux process.

    A process that has used them up is aborted by the compiler.
    """
    yield
    if _MAPS.exists() and _MAPS.read_bytes().count(b"\n") > _MANY_MAPS:
        jax.clear_caches()


@pytest.fixture(scope="session")
def golden():
    """Loader of one reference file by name; skips, with the reason, what the folder lacks."""

    def load(name: str) -> dict[str, np.ndarray]:
        path = golden_folder() / name
        if not path.exists():
            pytest.skip(f"{path} is not there")
        with np.load(path) as arrays:
            return dict(arrays)

    return load
