"""The arrays of one reference file, by case; what the file lacks is a skipped case."""

import re
from typing import NamedTuple

import numpy as np
import pytest

from tests.conftest import golden_folder


class ReferenceArrays(NamedTuple):
    """`name`.npz in the folder of reference values."""

    name: str

    @property
    def path(self):
        return golden_folder() / f"{self.name}.npz"

    def held(self) -> list[str]:
        """Names of all arrays."""
        if not self.path.exists():
            return []
        with np.load(self.path) as arrays:
            return sorted(arrays.files)

    def cases(self, pattern: str) -> list:
        """What the pattern matches, its groups joined by "-": one parameter each."""
        matches = (re.fullmatch(pattern, name) for name in self.held())
        found = sorted({match.groups() for match in matches if match})
        if found:
            return [pytest.param(*groups, id="-".join(filter(None, groups))) for groups in found]
        groups = re.compile(pattern).groups
        reason = f"{self.path} has no array {pattern}"
        return [pytest.param(*[None] * groups, id="none", marks=pytest.mark.skip(reason=reason))]

    def get(self, *names: str) -> list[np.ndarray]:
        """Arrays; a test that needs one that is not there is skipped."""
        with np.load(self.path) as arrays:
            for name in names:
                if name not in arrays.files:
                    pytest.skip(f"{self.path} lacks {name}")
            return [arrays[name] for name in names]
