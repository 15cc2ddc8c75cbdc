"""Decaying linear attention against the reference file; cases start with `lightning`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels import _compat
from pallas_kernels.ops.linear_attention import linear_attention
from tests.pallas_kernels.reference import arrays_of, cases, close

pytestmark = pytest.mark.golden


def length_first(x) -> jax.Array:
    """[b, h, l, d] as stored -> [b, l, h, d] as the function takes it, and back."""
    return jnp.swapaxes(jnp.asarray(x), 1, 2)


def inputs_of(g, dtype=jnp.float32) -> tuple:
    return tuple(length_first(g[name]).astype(dtype) for name in ("q", "k", "v"))


@pytest.mark.parametrize("case", cases("lightning"))
def test_output_and_state(case):
    g = arrays_of(case)
    o, state = linear_attention(
        *inputs_of(g),
        slopes=jnp.asarray(g["slopes"]),
        initial_state=g.get("init_state"),
        return_state=True,
    )
    close(length_first(o), g["y"], 1e-5)
    close(state, g["state"], 1e-5)


def gradients_of(g, dtype, **settings) -> dict:
    slopes, state = jnp.asarray(g["slopes"]), g.get("init_state")

    def attend(q, k, v):
        return linear_attention(q, k, v, slopes=slopes, initial_state=state, **settings)

    pull = jax.vjp(attend, *inputs_of(g, dtype))[1]
    found = pull(length_first(g["dy"]).astype(dtype))
    return {n: length_first(x) for n, x in zip(("dq", "dk", "dv"), found, strict=True)}


@pytest.mark.parametrize("case", cases("lightning"))
def test_gradients(case):
    g = arrays_of(case)
    for name, x in gradients_of(g, jnp.float32).items():
        close(x, g[name], 1e-5)


# 2e-2: inputs, states and weights are rounded to 2**-9 each, and the reference's are not.
@pytest.mark.parametrize("case", cases("lightning"))
@pytest.mark.parametrize("implementation", ["mosaic_gpu", "triton"])
def test_output_and_state_of_the_kernels(case, implementation):
    g = arrays_of(case)
    o, state = linear_attention(
        *inputs_of(g, jnp.bfloat16),
        slopes=jnp.asarray(g["slopes"]),
        initial_state=g.get("init_state"),
        return_state=True,
        implementation=implementation,
        interpret=True,
    )
    close(length_first(o), g["y"], 2e-2)
    close(state, g["state"], 2e-2)
    assert implementation == "triton" or not _compat.races_found()


@pytest.mark.slow
@pytest.mark.parametrize("case", cases("lightning"))
@pytest.mark.parametrize("implementation", ["mosaic_gpu", "triton"])
def test_gradients_of_the_kernels(case, implementation):
    g = arrays_of(case)
    found = gradients_of(g, jnp.bfloat16, implementation=implementation, interpret=True)
    for name, x in found.items():
        close(x, g[name], 2e-2)
    assert implementation == "triton" or not _compat.races_found()


@pytest.mark.parametrize("case", cases("lightning"))
def test_float64_is_exact(case):
    """Sums of a few hundred products, rounded to 2e-16 each."""
    g = arrays_of(case)
    with jax.enable_x64(True):
        slopes = jnp.asarray(g["slopes"], float)
        o = linear_attention(*inputs_of(g, float), slopes=slopes, initial_state=g.get("init_state"))
        assert o.dtype == np.float64
        close(length_first(o), g["y"], 1e-13)
