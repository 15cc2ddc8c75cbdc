"""Dropout, residual and norm of the reference file; cases start with `layernorm`."""

import jax
import jax.numpy as jnp
import pytest

from pallas_kernels.ops.layernorm import layernorm, xla
from tests.pallas_kernels.reference import arrays_of, cases, close

pytestmark = pytest.mark.golden
FLOAT32, FLOAT64 = 1e-5, 1e-12  # sums of a row of 64 numbers near 1
BF16 = 2e-2  # inputs and results rounded to 2**-9
KERNEL = {"implementation": "mosaic_gpu", "interpret": True}
TRITON = {"implementation": "triton", "interpret": True}
ROWS = ("x", "residual", "keep", "do", "dres_out", "o", "res_out", "dx", "dresidual")


def inputs(g, dtype):
    return [jnp.asarray(g[name], dtype) for name in ("x", "weight", "bias", "residual")]


def run(g, dtype, **settings):
    """The op as a function of its arrays, as the reference ran it."""
    p, keep = float(g["p"]), jnp.asarray(g["keep"], bool)

    def f(x, weight, bias, residual):
        return layernorm(x, weight, bias, residual=residual, dropout=p, keep=keep, **settings)

    out, pull = jax.vjp(f, *inputs(g, dtype))
    return out, pull(tuple(jnp.asarray(g[name], dtype) for name in ("do", "dres_out")))


def check(g, results, tolerance):
    (y, total), (dx, dweight, dbias, dresidual) = results
    got = {"o": y, "res_out": total, "dx": dx, "dresidual": dresidual}
    for name, x in (got | {"dweight": dweight, "dbias": dbias}).items():
        close(x, g[name], tolerance)


@pytest.mark.parametrize("case", cases("layernorm"))
def test_float64_and_float32(case):
    g = arrays_of(case)
    with jax.enable_x64(True):
        check(g, run(g, jnp.float64), FLOAT64)
    check(g, run(g, jnp.float32), FLOAT32)


@pytest.mark.parametrize("case", cases("layernorm"))
def test_the_mosaic_kernel_on_the_first_rows(case):
    """Rows are independent: four of them are one block of the kernel."""
    g = arrays_of(case)
    g |= {name: g[name].reshape(-1, g[name].shape[-1])[:4] for name in ROWS}
    x, weight, bias, residual = inputs(g, jnp.bfloat16)
    keep = jnp.asarray(g["keep"], bool)
    y, total = layernorm(
        x, weight, bias, residual=residual, dropout=float(g["p"]), keep=keep, **KERNEL
    )
    close(y, g["o"], BF16)
    close(total, g["res_out"], BF16)


@pytest.mark.slow
@pytest.mark.parametrize("case", cases("layernorm"))
def test_the_mosaic_kernels_with_gradients(case):
    g = arrays_of(case)
    check(g, run(g, jnp.bfloat16, **KERNEL), BF16)


@pytest.mark.parametrize("case", cases("layernorm"))
def test_the_triton_kernels_with_gradients(case):
    g = arrays_of(case)
    check(g, run(g, jnp.float32, **TRITON), FLOAT32)


@pytest.mark.parametrize("case", cases("layernorm"))
def test_statistics(case):
    g = arrays_of(case)
    x, weight, bias, residual = inputs(g, jnp.float32)
    setting = xla.Setting(dropout=float(g["p"]))
    normed = xla.forward(setting, x, weight, bias, residual, jnp.asarray(g["keep"], bool))
    close(normed.mean, g["mean"], FLOAT32)
    close(normed.rstd, g["rstd"], FLOAT32)
