"""Hedgehog hybrid attention against the reference file; cases start with `hedgehog`."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels.ops.hybrid_attention import hedgehog_attention, hedgehog_features
from tests.pallas_kernels.reference import arrays_of, cases, close

pytestmark = pytest.mark.golden
NAMES = ("q", "k", "v", "wq", "wk", "alphas", "betas")


def inputs_of(g, dtype=jnp.float32) -> list[jax.Array]:
    """[b, h, l, d] as stored -> [b, l, h, d] as the function takes it; maps and factors as is."""
    arrays = [jnp.asarray(g[name]).astype(dtype) for name in NAMES]
    return [jnp.swapaxes(x, 1, 2) for x in arrays[:3]] + arrays[3:]


def check(g, dtype, tolerance: float) -> None:
    q, k, v, wq, wk, alphas, betas = inputs_of(g, dtype)
    for name, x, w in (("phi_q", q, wq), ("phi_k", k, wk)):
        close(jnp.swapaxes(jax.jit(hedgehog_features)(x, w), 1, 2), g[name], tolerance)
    attend = partial(hedgehog_attention, window=int(g["block"]), return_state=True)
    y, *state = jax.jit(attend)(q, k, v, wq, wk, alphas, betas)
    assert y.dtype == dtype
    close(jnp.swapaxes(y, 1, 2), g["y"], tolerance)
    for name, x in zip(("kv_state", "k_state"), state, strict=True):
        close(x, g[name], tolerance)


@pytest.mark.parametrize("case", cases("hedgehog"))
def test_features_output_and_state(case):
    check(arrays_of(case), jnp.float32, 1e-5)  # sums of a hundred float32 products


@pytest.mark.parametrize("case", cases("hedgehog"))
def test_float64_is_exact(case):
    g = arrays_of(case)
    # Arrays of over 20000 numbers are stored in float32.
    exact = all(g[name].dtype == np.float64 for name in ("phi_q", "phi_k", "y", "kv_state"))
    with jax.enable_x64(True):
        check(g, jnp.float64, 1e-13 if exact else 1e-7)
