"""One sympy process for all tests that need it; without the extra they say so and are skipped."""

import pytest

from jlab.sampling import Equivalence


@pytest.fixture(scope="session")
def equivalence():
    try:
        made = Equivalence(workers=1)
    except ImportError as error:
        pytest.skip(str(error))
    with made:
        yield made
