"""Attention against values computed in float64 by a quadratic and an online softmax.

Origin: array families `attn*` of `kernels.npz`: q, k, v, do -> o, lse, delta, dq, dk, dv.
"""

import jax
import numpy as np
import pytest

from pallas_kernels.ops.attention import attention
from pallas_kernels.ops.attention.xla import delta
from tests.conftest import golden_folder
from tests.pallas_kernels.ops.definition_of_attention import error

FILE = "kernels.npz"
RESULTS = ("o", "lse", "delta", "dq", "dk", "dv")


def cases():
    path = golden_folder() / FILE
    if not path.exists():
        return []
    with np.load(path) as arrays:
        names = {key.split("/")[0] for key in arrays.files}
    return sorted(name for name in names if name.startswith("attn"))


pytestmark = [pytest.mark.golden, pytest.mark.parametrize("case", cases())]


@pytest.fixture
def arrays(golden, case):
    whole = golden(FILE)
    found = {key.split("/")[1]: x for key, x in whole.items() if key.split("/")[0] == case}
    # Stored as [batch, heads, length(, dim)].
    return {name: np.swapaxes(x, 1, 2) for name, x in found.items()}


def test_xla_in_float32(case, arrays):
    """1e-5: sums of up to a few hundred float32 products reach 1e-6."""

    @jax.jit
    def run(q, k, v, do):
        def f(*x):
            return attention(*x, causal="causal" in case, return_lse=True, implementation="xla")

        (o, lse), pull = jax.vjp(f, q, k, v)
        none = np.zeros(lse.shape, lse.dtype)
        return (o, lse, delta(o, lse, do, none), *pull((do, none)))

    results = run(*(arrays[name] for name in ("q", "k", "v", "do")))
    for name, ours in zip(RESULTS, results, strict=True):
        if name in arrays:
            assert error(ours, arrays[name]) <= 1e-5, name
