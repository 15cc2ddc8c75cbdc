"""Products of the reference file, in float32, bfloat16 and 8 bits; cases start with `gemm`."""

import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels.ops.matmul import matmul, matmul_fp8, quantize_fp8
from tests.pallas_kernels.reference import arrays_of, cases, close

pytestmark = pytest.mark.golden
KERNEL = {"implementation": "mosaic_gpu", "interpret": True}


@pytest.mark.parametrize("case", cases("gemm"))
def test_float32(case):
    g = arrays_of(case)
    close(matmul(g["a"], g["b"]), g["c"], 1e-5)


@pytest.mark.parametrize("case", cases("gemm"))
@pytest.mark.parametrize("settings", [{}, KERNEL], ids=["xla", "mosaic"])
def test_bfloat16_with_the_sum_in_float32(case, settings):
    g = arrays_of(case)
    a, b = (jnp.asarray(g[name], jnp.bfloat16) for name in ("a", "b"))
    # Products of bfloat16 numbers are exact in float32: only the order of the sum differs.
    close(matmul(a, b, out_dtype=jnp.float32, **settings), g["c_bf16_inputs"], 1e-6)


@pytest.mark.parametrize("case", cases("gemm"))
@pytest.mark.parametrize("settings", [{}, KERNEL], ids=["xla", "mosaic"])
def test_8_bits(case, settings):
    g = arrays_of(case)
    a, b = (jnp.asarray(g[n].view(jnp.float8_e4m3fn)) for n in ("a_e4m3_bits", "b_e4m3_bits"))
    scales = [jnp.asarray(g[n]) for n in ("scale_a", "scale_b")]
    close(matmul_fp8(a, b, *scales, out_dtype=jnp.float32, **settings), g["c_fp8"], 1e-6)


@pytest.mark.parametrize("case", cases("gemm"))
@pytest.mark.parametrize("factor", ["a", "b"])
def test_rounding_to_8_bits(case, factor):
    g = arrays_of(case)
    axis = 1 if factor == "a" else 0
    x, scale = quantize_fp8(jnp.asarray(g[factor]), axis)
    np.testing.assert_allclose(scale, g[f"scale_{factor}"], rtol=1e-6)
    np.testing.assert_array_equal(np.asarray(x).view(np.uint8), g[f"{factor}_e4m3_bits"])
