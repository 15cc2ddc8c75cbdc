"""Based's Taylor attention against the reference file; cases start with `based`."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels.ops.taylor_attention import taylor_attention
from tests.pallas_kernels.reference import arrays_of, cases, close

pytestmark = pytest.mark.golden


def check(g, dtype, tolerance: float) -> None:
    # [b, h, l, d] as stored -> [b, l, h, d] as the function takes it.
    q, k, v = (jnp.swapaxes(jnp.asarray(g[name]).astype(dtype), 1, 2) for name in ("q", "k", "v"))
    y, state = jax.jit(partial(taylor_attention, return_state=True))(q, k, v)
    normalized = jax.jit(partial(taylor_attention, normalize=True))(q, k, v)
    den = jax.jit(taylor_attention)(q, k, jnp.ones_like(v[..., :1]))[..., 0]
    assert y.dtype == dtype
    for name, x in (("y", y), ("y_normalized", normalized), ("den", den)):
        close(jnp.swapaxes(x, 1, 2), g[name], tolerance)
    for name, x in (("kv_a0", state.a0), ("kv_a1", state.a1), ("kv_a2", state.a2)):
        close(x, g[name], tolerance)


@pytest.mark.parametrize("case", cases("based"))
def test_output_normaliser_and_state(case):
    check(arrays_of(case), jnp.float32, 1e-5)  # sums of a hundred float32 products


@pytest.mark.parametrize("case", cases("based"))
def test_float64_is_exact(case):
    g = arrays_of(case)
    # Arrays of over 20000 numbers are stored in float32.
    exact = all(g[name].dtype == np.float64 for name in ("y", "y_normalized", "kv_a2"))
    with jax.enable_x64(True):
        check(g, jnp.float64, 1e-13 if exact else 1e-7)
