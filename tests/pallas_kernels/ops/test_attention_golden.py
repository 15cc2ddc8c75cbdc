"""Attention against values computed in float64 by a quadratic and by an online softmax.

Array families `attn*`: q, k, v, do -> o, lse, delta, dq, dk, dv, stored as [batch, heads, length,
dim]. The word `causal` in the name of a case is the setting.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels import attention, races_found
from pallas_kernels.ops.attention.xla import delta
from tests.pallas_kernels.ops.attention_by_definition import by_definition, error
from tests.pallas_kernels.reference import arrays_of, cases

pytestmark = [pytest.mark.golden, pytest.mark.parametrize("case", cases("attn"))]

# Sums of up to a few hundred float32 products: 1e-6 of the largest value.
FLOAT32 = 1e-5
# bfloat16 rounds to 2^-9; weights and results are rounded once, scores not at all.
BFLOAT16 = 2e-2


def public(case, *names):
    """Arrays in the public order of axes."""
    arrays = arrays_of(case)
    return [np.swapaxes(arrays[name], 1, 2) for name in names]


@pytest.mark.parametrize("settings", [{}, {"implementation": "triton", "interpret": True}])
def test_forward_pass_and_gradients_in_float32(case, settings):
    q, k, v, do = public(case, "q", "k", "v", "do")

    def f(*x):
        return attention(*x, causal="causal" in case, return_lse=True, **settings)

    @jax.jit
    def run(q, k, v, do):
        (o, lse), pull = jax.vjp(f, q, k, v)
        zero = jnp.zeros_like(lse)
        return o, lse, delta(o, lse, do, zero), *pull((do, zero))

    names = ("o", "lse", "delta", "dq", "dk", "dv")
    for name, x, expected in zip(names, run(q, k, v, do), public(case, *names), strict=True):
        assert error(x, expected) <= FLOAT32, name


def rounded(case, *names):
    """In bfloat16, the first key head and the query heads that share it: interpreting is slow."""
    heads = public(case, "q")[0].shape[2] // public(case, "k")[0].shape[2]
    kept = {"k": 1, "v": 1, "dk": 1, "dv": 1}
    return [
        jnp.asarray(x[:, :, : kept.get(name, heads)], jnp.bfloat16)
        for name, x in zip(names, public(case, *names), strict=True)
    ]


@functools.partial(jax.jit, static_argnames="causal")
def kernel(q, k, v, causal):
    settings = {"implementation": "mosaic_gpu", "interpret": True}
    return attention(q, k, v, causal=causal, return_lse=True, **settings)


def test_hopper_kernel_in_bfloat16(case):
    """Against float64 from the rounded inputs; the stored values are a second witness."""
    q, k, v, stored = rounded(case, "q", "k", "v", "o")
    out, lse = kernel(q, k, v, causal="causal" in case)
    assert not races_found()
    expected = by_definition(q, k, v, causal="causal" in case)
    assert error(out, expected[0]) <= BFLOAT16
    assert error(lse, expected[1]) <= FLOAT32  # float32 sums of exact products
    assert error(out, stored) <= 2 * BFLOAT16  # the inputs were rounded as well


@pytest.mark.slow
def test_hopper_kernels_of_the_gradient_in_bfloat16(case):
    q, k, v, do, *stored = rounded(case, "q", "k", "v", "do", "dq", "dk", "dv")

    @jax.jit
    def run(q, k, v, do):
        (_, lse), pull = jax.vjp(lambda *x: kernel(*x, causal="causal" in case), q, k, v)
        return pull((do, jnp.zeros_like(lse)))

    gradients = run(q, k, v, do)
    assert not races_found()
    expected = by_definition(q, k, v, do, causal="causal" in case)[2:]
    for x, theirs, from_exact_inputs in zip(gradients, expected, stored, strict=True):
        assert error(x, theirs) <= BFLOAT16
        assert error(x, from_exact_inputs) <= 2 * BFLOAT16
