"""Mamba-2's scan against the reference file; cases start with `mamba2`."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels import _compat
from pallas_kernels.ops.mamba2 import mamba2
from tests.pallas_kernels.reference import arrays_of, cases, close

pytestmark = pytest.mark.golden
INPUTS = ("x", "dt", "A", "B", "C")


def settings_of(g, dtype) -> dict:
    """What a case may have or lack."""
    optional = {"initial_state": g.get("init_state"), "D": g.get("D")}
    return {k: jnp.asarray(x, dtype) for k, x in optional.items() if x is not None}


def recurrence(x, dt, A, B, C, initial_state, D=None):
    """h_t = exp(dt_t A) h_{t-1} + dt_t x_t B_t^T, y_t = h_t C_t + D x_t, as it stands."""
    repeats = x.shape[2] // B.shape[2]

    def step(h, token):
        x, dt, B, C = token
        decay = jnp.exp(dt * A[None])[..., None, None]
        h = decay * h + (dt[..., None] * x)[..., None] * jnp.repeat(B, repeats, axis=1)[:, :, None]
        y = jnp.sum(h * jnp.repeat(C, repeats, axis=1)[:, :, None], axis=-1)
        return h, y if D is None else y + D[None, :, None] * x

    tokens = (jnp.moveaxis(z, 1, 0) for z in (x, dt, B, C))
    h, y = jax.lax.scan(step, initial_state, tuple(tokens))
    return jnp.moveaxis(y, 0, 1), h


@pytest.mark.parametrize("case", cases("mamba2"))
@pytest.mark.parametrize("chunk", [16, 64])
def test_output_and_state(case, chunk):
    g = arrays_of(case)
    inputs = (jnp.asarray(g[name]) for name in INPUTS)
    settings = settings_of(g, jnp.float32)
    y, state = mamba2(*inputs, **settings, chunk=chunk, return_state=True)
    close(y, g["y"], 1e-5)
    close(state, g["final_state"], 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("case", cases("mamba2"))
@pytest.mark.parametrize("implementation", ["mosaic_gpu", "triton"])
def test_output_and_state_of_the_kernels(case, implementation):
    """2e-2: inputs, states and weights are rounded to 2**-9 each, the reference's are not."""
    g = arrays_of(case)
    narrow = {n: jnp.asarray(g[n], jnp.bfloat16) for n in ("x", "B", "C")}
    inputs = {n: jnp.asarray(g[n]) for n in ("dt", "A")} | settings_of(g, jnp.float32)
    run = {"implementation": implementation, "interpret": True, "return_state": True}
    y, state = mamba2(**narrow, **inputs, **run)
    close(y, g["y"], 2e-2)
    close(state, g["final_state"], 2e-2)
    assert implementation == "triton" or not _compat.races_found()


@pytest.mark.parametrize("case", cases("mamba2"))
def test_gradients(case):
    """Those of the chunked form in float32 are those of the recurrence in float64."""
    g = arrays_of(case)

    batch, _, heads, p = g["x"].shape
    zeros = np.zeros((batch, heads, p, g["B"].shape[-1]))

    def pulled(dtype, call):
        settings = {"initial_state": jnp.asarray(zeros, dtype)} | settings_of(g, dtype)

        def named(*arrays):
            return call(*arrays[:5], **dict(zip(settings, arrays[5:], strict=True)))

        @jax.jit
        def gradients(*arrays):
            outputs, pull = jax.vjp(named, *arrays)
            return pull(jax.tree.map(jnp.cos, outputs))

        inputs = [jnp.asarray(g[name], dtype) for name in INPUTS]
        return gradients(*inputs, *settings.values())

    found = pulled(jnp.float32, functools.partial(mamba2, return_state=True))
    with jax.enable_x64(True):
        expected = pulled(jnp.float64, recurrence)
    for x, y in zip(found, expected, strict=True):
        close(x, y, 1e-5)


@pytest.mark.parametrize("case", cases("mamba2"))
def test_float64_is_exact(case):
    """Sums of a few hundred products, rounded to 2e-16 each."""
    g = arrays_of(case)
    with jax.enable_x64(True):
        inputs = (jnp.asarray(g[name], float) for name in INPUTS)
        y, state = mamba2(*inputs, **settings_of(g, float), return_state=True)
        close(y, g["y"], 1e-13)
        close(state, g["final_state"], 1e-13)
