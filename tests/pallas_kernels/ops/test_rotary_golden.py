"""Rotary embedding of the reference file; cases start with `rotary`."""

import jax
import jax.numpy as jnp
import pytest

from pallas_kernels.ops.rotary import mosaic, rotary
from tests.pallas_kernels.reference import arrays_of, cases, close

pytestmark = pytest.mark.golden
BF16 = 2e-2  # inputs rounded to 2**-9, the result too
MOSAIC = {"implementation": "mosaic_gpu", "interpret": True}
TRITON = {"implementation": "triton", "interpret": True}


def run(g, dtype, table_dtype, **settings):
    """Stored arrays are [batch, heads, length, dim]."""
    x = jnp.asarray(g["x"], dtype).swapaxes(1, 2)
    tables = (jnp.asarray(g[name], table_dtype) for name in ("cos", "sin"))
    return rotary(x, *tables, **settings).swapaxes(1, 2)


@pytest.mark.parametrize("case", cases("rotary"))
def test_float64_and_float32(case):
    g = arrays_of(case)
    with jax.enable_x64(True):
        close(run(g, jnp.float64, jnp.float64), g["y"], 1e-14)
    close(run(g, jnp.float32, jnp.float32), g["y"], 1e-6)  # two products and a sum


@pytest.mark.parametrize("case", cases("rotary"))
@pytest.mark.parametrize("tables", [jnp.float32, jnp.bfloat16])
def test_bfloat16_with_tables_of_either_type(case, tables):
    g = arrays_of(case)
    close(run(g, jnp.bfloat16, tables), g["y"], BF16)


@pytest.mark.parametrize("case", cases("rotary"))
def test_the_mosaic_kernel(case):
    g = arrays_of(case)
    half, dim = g["cos"].shape[-1], g["x"].shape[-1]
    if reason := mosaic.unfit(jnp.zeros((1, 1, 1, dim), jnp.bfloat16), jnp.zeros((1, half))):
        pytest.skip(reason)
    close(run(g, jnp.bfloat16, jnp.float32, **MOSAIC), g["y"], BF16)


@pytest.mark.parametrize("case", cases("rotary"))
def test_the_triton_kernel(case):
    g = arrays_of(case)
    close(run(g, jnp.float32, jnp.float32, **TRITON), g["y"], 1e-6)
