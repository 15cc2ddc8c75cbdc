"""Long convolutions of the reference file, and its factors; cases start with `fftconv`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels.ops.fftconv import fftconv, monarch, mosaic
from tests.pallas_kernels.reference import arrays_of, cases, close

pytestmark = pytest.mark.golden
FLOAT32, FLOAT64 = 1e-5, 1e-12  # transforms of some hundred numbers near 1
# Inputs, factors and all that lies between the products are rounded to 2**-9, in six places.
BF16 = 2e-2
KERNEL = {"implementation": "mosaic_gpu", "interpret": True}
BOTH = pytest.mark.parametrize("causal", [True, False], ids=["causal", "circular"])


def run(g, dtype, causal, **settings):
    u, k = (jnp.asarray(g[name], dtype) for name in ("u", "k"))
    return fftconv(u, k, causal=causal, **settings)


def answer(g, causal):
    return g["y_causal" if causal else "y_circular"]


@BOTH
@pytest.mark.parametrize("case", cases("fftconv"))
def test_float64_and_float32(case, causal):
    g = arrays_of(case)
    with jax.enable_x64(True):
        close(run(g, jnp.float64, causal), answer(g, causal), FLOAT64)
    close(run(g, jnp.float32, causal), answer(g, causal), FLOAT32)


@BOTH
@pytest.mark.parametrize("case", cases("fftconv"))
def test_the_kernel(case, causal):
    g = arrays_of(case)
    if reason := mosaic.unfit(jnp.asarray(g["u"], jnp.bfloat16), causal=causal):
        pytest.skip(reason)
    close(run(g, jnp.bfloat16, causal, **KERNEL), answer(g, causal), BF16)


@pytest.mark.parametrize("case", cases("fftconv"))
def test_factors_of_the_transform(case):
    g = arrays_of(case)
    n1, n2 = g["tw_real"].shape
    tolerance = 1e-12  # the stored ones left the exponent a b as it is: an angle of up to 2 pi n
    for stored, ours in (("f", monarch.dft(len(g["f_real"]))), ("tw", monarch.twiddle(n1, n2))):
        np.testing.assert_allclose(ours.real, g[f"{stored}_real"], rtol=0, atol=tolerance)
        np.testing.assert_allclose(ours.imag, g[f"{stored}_imag"], rtol=0, atol=tolerance)


@pytest.mark.parametrize("case", cases("fftconv"))
def test_the_circular_product_of_transforms(case):
    g = arrays_of(case)
    n1, n2 = g["tw_real"].shape
    with jax.enable_x64(True):
        u, k = (jnp.asarray(g[n], jnp.float64) for n in ("u", "k"))
        a, b = monarch.transform(u, n1, n2), monarch.transform(k[None], n1, n2)
        product = monarch.Complex(a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re)
        close(monarch.inverse(product), g["y_circular"], FLOAT64)
