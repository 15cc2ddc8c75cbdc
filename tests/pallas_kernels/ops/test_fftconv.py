"""Laws of the long convolution: the sum it stands for, linearity, shifts, gradients, vmap."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from pallas_kernels.ops import fftconv as package
from pallas_kernels.ops.fftconv import monarch
from tests.pallas_kernels.reference import close

BOTH = pytest.mark.parametrize("causal", [True, False], ids=["causal", "circular"])
# Transforms of up to 600 numbers near 1, relative to the largest result; a length of 1 or 2 can
# have a result that all but cancels, hence the margin.
FLOAT32 = 1e-5
fftconv = functools.partial(jax.jit, static_argnames="causal")(package.fftconv)


def drawn(*shapes, seed=0, dtype=jnp.float32):
    rng = np.random.default_rng(seed)
    return [jnp.asarray(rng.normal(size=s), dtype) for s in shapes]


def by_definition(u, k, causal):
    """The sum itself, in float64."""
    u, k = np.asarray(u, np.float64), np.asarray(k, np.float64)
    n = u.shape[-1]
    y = np.zeros(u.shape)
    for s in range(n):
        shifted = np.roll(u, s, -1)
        if causal:
            shifted[..., :s] = 0
        y += k[None, :, s : s + 1] * shifted
    return y


@BOTH
@settings(max_examples=10)  # each length is a compilation
@example(1)
@example(2)
@example(300)
@given(st.integers(1, 300))
def test_it_is_the_direct_sum_for_any_length(causal, n):
    u, k = drawn((2, 3, n), (3, n), seed=n)
    close(fftconv(u, k, causal=causal), by_definition(u, k, causal), FLOAT32)


@BOTH
@given(st.floats(-3, 3), st.floats(-3, 3))
def test_it_is_linear_in_both(causal, a, b):
    u, v, k, m = drawn((1, 2, 40), (1, 2, 40), (2, 40), (2, 40))
    conv = lambda u, k: fftconv(u, k, causal=causal)  # noqa: E731
    tolerance = {"rtol": 0, "atol": 2e-4}  # results up to 100
    np.testing.assert_allclose(conv(a * u + b * v, k), a * conv(u, k) + b * conv(v, k), **tolerance)
    np.testing.assert_allclose(conv(u, a * k + b * m), a * conv(u, k) + b * conv(u, m), **tolerance)


@given(st.integers(0, 39))
def test_circular_convolution_commutes_with_rotating_the_input(shift):
    u, k = drawn((1, 2, 40), (2, 40))
    rotated = fftconv(jnp.roll(u, shift, -1), k, causal=False)
    close(rotated, jnp.roll(fftconv(u, k, causal=False), shift, -1), FLOAT32)


@settings(max_examples=5)  # each delay is a compilation
@given(st.integers(1, 39))
def test_causal_convolution_delays_with_its_input_and_sees_no_future(delay):
    u, k = drawn((1, 2, 40), (2, 40))
    late = jnp.pad(u, ((0, 0), (0, 0), (delay, 0)))[..., :40]
    y = fftconv(late, k)
    np.testing.assert_allclose(y[..., :delay], 0, atol=1e-4)  # of results up to 20
    close(y[..., delay:], fftconv(u, k)[..., : 40 - delay], FLOAT32)


@settings(max_examples=6)
@given(st.integers(1, 60))
def test_circular_is_causal_of_the_padded_with_the_tail_folded_back(n):
    u, k = drawn((1, 2, n), (2, n), seed=n)
    pad = lambda x: jnp.pad(x, ((0, 0),) * (x.ndim - 1) + ((0, n),))  # noqa: E731
    whole = fftconv(pad(u), pad(k))
    close(whole[..., :n] + whole[..., n:], fftconv(u, k, causal=False), FLOAT32)


@BOTH
def test_a_filter_of_one_then_zeros_changes_nothing(causal):
    (u,) = drawn((2, 3, 33))
    one = jnp.zeros((3, 33)).at[:, 0].set(1.0)
    close(fftconv(u, one, causal=causal), u, FLOAT32)


@BOTH
def test_gradients_are_correlations(causal):
    """du_t = sum_s k_s dy_{t+s} and dk_s = sum over the batch and t of u_t dy_{t+s}."""
    n = 12
    u, k, dy = drawn((2, 3, n), (3, n), (2, 3, n))
    du, dk = jax.vjp(lambda u, k: fftconv(u, k, causal=causal), u, k)[1](dy)
    u, k, dy = (np.asarray(x, np.float64) for x in (u, k, dy))
    expected_du, expected_dk = np.zeros(u.shape), np.zeros(k.shape)
    for s in range(n):
        later = np.roll(dy, -s, -1)
        if causal:
            later[..., n - s :] = 0
        expected_du += k[None, :, s : s + 1] * later
        expected_dk[:, s] = (u * later).sum((0, 2))
    close(du, expected_du, FLOAT32)
    close(dk, expected_dk, FLOAT32)


@BOTH
def test_gradients_are_those_of_finite_differences(causal):
    with jax.enable_x64(True):
        arrays = drawn((2, 2, 7), (2, 7), dtype=jnp.float64)
        conv = lambda u, k: fftconv(u, k, causal=causal)  # noqa: E731
        check_grads(conv, arrays, order=1, modes=["fwd", "rev"])


def test_vmap_equals_a_loop():
    u, k = drawn((3, 2, 2, 20), (3, 2, 20))
    loop = jnp.stack([fftconv(*args) for args in zip(u, k, strict=True)])
    np.testing.assert_allclose(jax.vmap(fftconv)(u, k), loop, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("n1", "n2"), [(1, 1), (2, 3), (7, 11), (16, 32), (32, 16), (64, 64)])
def test_the_matrix_form_is_the_transform_by_columns_and_back(n1, n2):
    with jax.enable_x64(True):
        (u,) = drawn((2, n1 * n2), dtype=jnp.float64)
        z = monarch.transform(u, n1, n2)
        expected = np.fft.fft(u).reshape(2, n2, n1).swapaxes(1, 2)
        # float64, sums of up to 4096 numbers near 1.
        np.testing.assert_allclose(z.re + 1j * z.im, expected, rtol=0, atol=1e-11)
        np.testing.assert_allclose(monarch.inverse(z), u, rtol=0, atol=1e-13)


def test_the_matrix_form_pads_with_zeros():
    (u,) = drawn((1, 10))
    padded = jnp.pad(u, ((0, 0), (0, 6)))
    for short, whole in zip(
        monarch.transform(u, 4, 4), monarch.transform(padded, 4, 4), strict=True
    ):
        np.testing.assert_array_equal(short, whole)


def test_factors_of_a_large_transform_keep_their_digits():
    """The product of indices, up to 2**20 here, is reduced before it becomes an angle."""
    n = 1024
    row = monarch.dft(n)[n - 1]
    np.testing.assert_allclose(row, np.exp(2j * np.pi * np.arange(n) / n), rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"k": jnp.ones((2, 4))}, ValueError, r"k must have shape \(channels = 2, length = 5\)"),
        ({"k": jnp.ones((1, 2, 5))}, ValueError, "k must have shape"),
        ({"u": jnp.ones((1, 2, 0)), "k": jnp.ones((2, 0))}, ValueError, "u has no length"),
        ({"k": jnp.ones((2, 5), jnp.bfloat16)}, TypeError, "u float32, k bfloat16"),
        ({"implementation": "cuda"}, ValueError, "got 'cuda'"),
    ],
)
def test_bad_input_is_named(change, error, message):
    with pytest.raises(error, match=f"fftconv: .*{message}"):
        package.fftconv(**{"u": jnp.ones((1, 2, 5)), "k": jnp.ones((2, 5))} | change)
