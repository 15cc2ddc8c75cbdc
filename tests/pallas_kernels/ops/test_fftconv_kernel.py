"""The convolution's kernels in the interpreter: plans, the definition, gradients, rings, vmap."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pallas_kernels import _compat
from pallas_kernels.ops.fftconv import fftconv, mosaic, mosaic_grad, xla
from pallas_kernels.ops.fftconv.plan import plan_for
from tests.pallas_kernels.reference import close

KERNEL = {"implementation": "mosaic_gpu", "interpret": True}
BF16 = 2e-2  # rounded to 2**-9 in six places between input and result
BOTH = pytest.mark.parametrize("causal", [True, False], ids=["causal", "circular"])


def drawn(*shapes, seed=0):
    rng = np.random.default_rng(seed)
    return [jnp.asarray(rng.normal(size=s), jnp.bfloat16) for s in shapes]


def pulled(u, k, dy, **settings):
    conv = functools.partial(fftconv, **settings)
    y, pull = jax.jit(lambda u, k: jax.vjp(conv, u, k))(u, k)
    return y, *pull(dy)


def compare(u, k, dy, causal):
    mine = pulled(u, k, dy, causal=causal, **KERNEL)
    assert not _compat.races_found()
    wide = (x.astype(jnp.float32) for x in (u, k, dy))
    for got, expected in zip(mine, pulled(*wide, causal=causal), strict=True):
        assert got.dtype == jnp.bfloat16
        close(got, expected, BF16)


@given(st.integers(1, 4096))
def test_every_causal_length_has_a_plan_that_holds_it_without_wrapping(n):
    plan = plan_for(n, causal=True)
    assert plan.room >= n
    assert plan.size >= 2 * n
    assert plan.group * plan.n1 == plan.rows == 128


@pytest.mark.parametrize("n", [64, 128, 1024, 4096])
def test_a_circular_length_of_its_own_has_a_transform_of_that_length(n):
    plan = plan_for(n, causal=False)
    assert plan.size == plan.room == n
    assert plan_for(n + 1, causal=False) is None


def test_sequences_go_into_tiles_and_come_back():
    plan = plan_for(100, causal=True)
    (x,) = drawn((3, 5, 100))
    tiles = plan.tiles(x)
    assert tiles.shape == (3, 1, 64, 64)  # 32 channels of two rows, five of them there
    np.testing.assert_array_equal(plan.sequences(tiles, 5, 100), x)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("batch", "channels", "n", "causal"),
    [(1, 1, 4096, True), (3, 2, 100, True), (3, 2, 100, False), (5, 1, 256, False)],
    ids=["the longest, no pair", "odd and ragged", "folded", "two consumers"],
)
def test_kernels_are_the_definition_with_gradients(batch, channels, n, causal):
    compare(*drawn((batch, channels, n), (channels, n), (batch, channels, n)), causal)


@pytest.mark.slow
@BOTH
def test_a_ring_that_wraps(causal):
    """All pairs of a channel for one block: more steps than stages."""
    u, k, dy = drawn((20, 1, 64), (1, 64), (20, 1, 64))
    plan = plan_for(64, causal=causal)
    y = mosaic.convolve(plan, u, plan.spectrum(k), blocks=1, interpret=True)
    assert not _compat.races_found()
    dk = mosaic_grad.correlate(plan, u, dy, blocks=1, interpret=True)
    assert not _compat.races_found()
    u, k, dy = (x.astype(jnp.float32) for x in (u, k, dy))
    expected, pull = jax.vjp(lambda k: xla.convolve(u, k, causal=causal), k)
    close(y, expected, BF16)
    close(dk, pull(dy)[0], BF16)


@pytest.mark.slow
def test_vmap_of_the_kernels_is_that_of_the_definition():
    u, k = drawn((2, 1, 1, 64), (1, 64))

    def grad(u, **settings):
        return jax.grad(lambda u, k: fftconv(u, k, **settings).sum(), (0, 1))(u, k)

    mine = jax.vmap(functools.partial(grad, **KERNEL))(u)
    for got, expected in zip(mine, jax.vmap(grad)(u), strict=True):
        close(got, expected, BF16)


@pytest.mark.parametrize(
    ("n", "causal", "dtype", "message"),
    [
        (8, True, jnp.float16, "it takes bfloat16; got float16"),
        (4097, True, jnp.bfloat16, "it takes lengths up to 4096; got 4097"),
        (3000, False, jnp.bfloat16, "it takes lengths up to 2048, and 4096; got 3000"),
    ],
)
def test_what_the_kernel_does_not_take_is_said_when_forced(n, causal, dtype, message):
    with pytest.raises(NotImplementedError, match=f"fftconv: .*{message}"):
        fftconv(jnp.ones((1, 1, n), dtype), jnp.ones((1, n), dtype), causal=causal, **KERNEL)
