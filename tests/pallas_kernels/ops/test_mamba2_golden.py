"""Mamba-2's scan against the reference file; cases start with `mamba2`."""

import jax
import jax.numpy as jnp
import pytest

from pallas_kernels.ops.mamba2 import mamba2
from tests.pallas_kernels.reference import arrays_of, cases, close

pytestmark = pytest.mark.golden
INPUTS = ("x", "dt", "A", "B", "C")


def settings_of(g, dtype) -> dict:
    """What a case may have or lack."""
    optional = {"initial_state": g.get("init_state"), "D": g.get("D")}
    return {k: jnp.asarray(x, dtype) for k, x in optional.items() if x is not None}


@pytest.mark.parametrize("case", cases("mamba2"))
@pytest.mark.parametrize("chunk", [16, 64])
def test_output_and_state(case, chunk):
    g = arrays_of(case)
    inputs = (jnp.asarray(g[name]) for name in INPUTS)
    settings = settings_of(g, jnp.float32)
    y, state = mamba2(*inputs, **settings, chunk=chunk, return_state=True)
    close(y, g["y"], 1e-5)
    close(state, g["final_state"], 1e-5)


@pytest.mark.parametrize("case", cases("mamba2"))
def test_float64_is_exact(case):
    """Sums of a few hundred products, rounded to 2e-16 each."""
    g = arrays_of(case)
    with jax.enable_x64(True):
        inputs = (jnp.asarray(g[name], float) for name in INPUTS)
        y, state = mamba2(*inputs, **settings_of(g, float), return_state=True)
        close(y, g["y"], 1e-13)
        close(state, g["final_state"], 1e-13)
