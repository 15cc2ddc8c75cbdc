"""Laws of rotary embedding: rotations compose and keep lengths; gradients; vmap; bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from pallas_kernels.ops.rotary import rope_tables, rotary
from tests.pallas_kernels.reference import close

FLOAT32 = 1e-6  # two products and a sum of numbers near 1


def drawn(*shape, seed=0, dtype=jnp.float32):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def by_definition(x, theta):
    """Pairs as complex numbers, times e^(i theta): theta [length, half]."""
    x = np.asarray(x, np.float64)
    half = theta.shape[-1]
    z = x[..., :half] + 1j * x[..., half : 2 * half]
    z = z * np.exp(1j * np.asarray(theta, np.float64))[None, :, None]
    return np.concatenate([z.real, z.imag, x[..., 2 * half :]], -1)


@jax.jit
def turn(x, theta):
    return rotary(x, jnp.cos(theta), jnp.sin(theta))


@settings(max_examples=10)  # each size is a compilation
@given(st.integers(1, 300), st.integers(1, 3), st.integers(1, 8), st.integers(0, 5))
def test_it_is_a_complex_product_for_any_length_and_width(length, heads, half, rest):
    x, theta = drawn(2, length, heads, 2 * half + rest), drawn(length, half, seed=1)
    close(turn(x, theta), by_definition(x, theta), FLOAT32)


@given(st.integers(0, 2**31 - 1))
def test_it_keeps_the_length_of_every_pair(seed):
    x, theta = drawn(1, 5, 2, 8, seed=seed), drawn(5, 4, seed=seed + 1)
    pairs = lambda x: x[..., :4] ** 2 + x[..., 4:] ** 2  # noqa: E731
    np.testing.assert_allclose(pairs(turn(x, theta)), pairs(x), rtol=1e-5, atol=1e-6)


@given(st.integers(0, 2**31 - 1))
def test_angles_add_up(seed):
    x, a, b = drawn(1, 5, 2, 10, seed=seed), drawn(5, 4, seed=seed + 1), drawn(5, 4, seed=seed + 2)
    close(turn(turn(x, a), b), turn(x, a + b), 5 * FLOAT32)


def test_products_of_queries_and_keys_depend_on_the_distance_alone():
    q, k = drawn(1, 1, 1, 16), drawn(1, 1, 1, 16, seed=1)
    cos, sin = rope_tables(100, 16)
    at = lambda x, t: rotary(x, cos[t : t + 1], sin[t : t + 1]).ravel()  # noqa: E731
    near, far = at(q, 10) @ at(k, 7), at(q, 93) @ at(k, 90)
    np.testing.assert_allclose(near, far, rtol=0, atol=2e-5)


def test_the_gradient_is_the_inverse_rotation():
    x, theta, d = drawn(2, 5, 3, 8), drawn(5, 3, seed=1), drawn(2, 5, 3, 8, seed=2)
    (dx,) = jax.vjp(lambda x: turn(x, theta), x)[1](d)
    close(dx, turn(d, -theta), FLOAT32)


def test_gradients_are_those_of_finite_differences_for_the_tables_too():
    with jax.enable_x64(True):
        arrays = [drawn(*s, dtype=jnp.float64) for s in ((2, 3, 2, 8), (2, 3, 3), (2, 3, 3))]
        check_grads(rotary, arrays, order=1, modes=["fwd", "rev"])


def test_tables_of_each_batch_are_used_for_it():
    x, theta = drawn(3, 4, 2, 8), drawn(3, 4, 4, seed=1)
    whole = rotary(x, jnp.cos(theta), jnp.sin(theta))
    for i in range(3):
        close(whole[i : i + 1], turn(x[i : i + 1], theta[i]), FLOAT32)


def test_vmap_equals_a_loop():
    x, theta = drawn(3, 2, 4, 2, 8), drawn(3, 4, 4, seed=1)
    loop = jnp.stack([turn(*args) for args in zip(x, theta, strict=True)])
    np.testing.assert_allclose(jax.vmap(turn)(x, theta), loop, rtol=0, atol=1e-6)


def test_bfloat16_is_rounded_once():
    x, theta = drawn(1, 4, 2, 8, dtype=jnp.bfloat16), drawn(4, 4, seed=1)
    y = turn(x, theta)
    assert y.dtype == jnp.bfloat16
    exact = turn(x.astype(jnp.float32), theta)
    np.testing.assert_array_equal(y, exact.astype(jnp.bfloat16))


@settings(max_examples=10)
@given(st.integers(1, 50), st.integers(1, 32), st.sampled_from([2.0, 1e4, 5e5]))
def test_tables_are_cosines_and_sines_of_the_angles(n, half, base):
    cos, sin = rope_tables(n, 2 * half, base)
    assert cos.shape == sin.shape == (n, half)
    assert cos.dtype == sin.dtype == jnp.float32
    theta = np.arange(n)[:, None] * base ** (-np.arange(half)[None] / half)
    np.testing.assert_allclose(cos, np.cos(theta), rtol=0, atol=1e-7)
    np.testing.assert_allclose(sin, np.sin(theta), rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"sin": jnp.ones((3, 1))}, ValueError, r"sin must have shape \(length = 3, half = 2\)"),
        ({"cos": jnp.ones((4, 2))}, ValueError, r"cos must have shape \(length = 3, half\); got"),
        ({"x": jnp.ones((1, 0, 1, 4))}, ValueError, "x has no length"),
        ({"x": jnp.ones((3, 1, 4))}, ValueError, r"x must have shape \(batch, length, heads, dim"),
        ({"x": jnp.ones((1, 3, 1, 3))}, ValueError, r"at most 1 wide, half a head; got \(3, 2\)"),
        ({"cos": jnp.ones((3, 2), jnp.bfloat16)}, TypeError, "cos bfloat16, sin float32"),
        (
            {"x": jnp.ones((1, 3, 1, 4), int)},
            TypeError,
            "x must be of a floating type",
        ),
    ],
)
def test_bad_input_is_named(change, error, message):
    arrays = {"x": jnp.ones((1, 3, 1, 4)), "cos": jnp.ones((3, 2)), "sin": jnp.ones((3, 2))}
    with pytest.raises(error, match=f"rotary: .*{message}"):
        rotary(**arrays | change)


def test_tables_of_another_half_precision_are_refused():
    x, table = jnp.ones((1, 3, 1, 4), jnp.bfloat16), jnp.ones((3, 2), jnp.float16)
    with pytest.raises(TypeError, match="cos and sin must be float32 or bfloat16; got float16"):
        rotary(x, table, table)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 4), "n must be an integer of at least 1; got 0"),
        ((3, 5), "dim must be even and at least 2; got 5"),
        ((3, 4, 0.0), "base must be positive; got 0.0"),
    ],
)
def test_tables_that_cannot_be_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        rope_tables(*arguments)
