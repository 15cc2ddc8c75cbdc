"""Laws of the norms: invariances, the dropout mask, gradients, vmap, bad input."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from pallas_kernels.ops.layernorm import layernorm, rmsnorm
from tests.pallas_kernels.reference import close

BOTH = pytest.mark.parametrize("norm", [layernorm, rmsnorm])
FLOAT32 = 1e-5  # sums of up to 300 numbers near 1


def drawn(*shapes, seed=0, dtype=jnp.float32):
    rng = np.random.default_rng(seed)
    return [jnp.asarray(rng.normal(size=s), dtype) for s in shapes]


def by_definition(x, weight, bias, eps, center):
    x, weight, bias = (np.asarray(a, np.float64) for a in (x, weight, bias))
    x = x - x.mean(-1, keepdims=True) * center
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * weight + bias


@BOTH
@settings(max_examples=8)  # each size is a compilation
@given(st.integers(1, 300), st.integers(1, 5), st.sampled_from([1e-6, 1e-5, 0.1]))
def test_it_is_the_definition_for_any_size(norm, dim, rows, eps):
    x, weight, bias = drawn((rows, dim), (dim,), (dim,), seed=dim)
    expected = by_definition(x, weight, bias, eps, norm is layernorm)
    got = jax.jit(functools.partial(norm, eps=eps))(x, weight, bias)
    np.testing.assert_allclose(got, expected, rtol=0, atol=10 * FLOAT32)


@given(st.floats(0.1, 10), st.floats(-5, 5))
def test_layernorm_ignores_scale_and_shift_of_a_row(scale, shift):
    x, weight, bias = drawn((3, 32), (32,), (32,))
    y = layernorm(scale * x + shift, weight, bias, eps=0)
    # The shift, up to 50 deviations, takes as many units off the digits of the row.
    close(y, layernorm(x, weight, bias, eps=0), 100 * FLOAT32)


@given(st.floats(0.1, 10))
def test_rmsnorm_ignores_scale_but_not_shift(scale):
    x, weight = drawn((3, 32), (32,))
    close(rmsnorm(scale * x, weight, eps=0), rmsnorm(x, weight, eps=0), FLOAT32)
    assert np.abs(rmsnorm(x + 1, weight, eps=0) - rmsnorm(x, weight, eps=0)).max() > 0.1


def test_a_large_mean_does_not_drown_the_variance():
    """Two passes over the row: the square of the mean is never formed."""
    x = jnp.asarray([[4096.0, 4097.0, 4098.0, 4099.0]])
    expected = by_definition(x, np.ones(4), np.zeros(4), 1e-5, center=True)
    np.testing.assert_allclose(layernorm(x, jnp.ones(4)), expected, rtol=1e-6)


@BOTH
def test_the_residual_is_added_first_and_comes_back(norm):
    x, r, weight = drawn((2, 3, 16), (2, 3, 16), (16,))
    y, total = norm(x, weight, residual=r)
    np.testing.assert_array_equal(total, x + r)
    np.testing.assert_array_equal(y, norm(x + r, weight))


@BOTH
def test_the_norm_is_that_of_the_rounded_residual(norm):
    """So that the backward pass, and the next layer, see what was normed."""
    x, r, weight = drawn((2, 16), (2, 16), (16,), dtype=jnp.bfloat16)
    y, total = norm(x, weight, residual=r)
    assert y.dtype == total.dtype == jnp.bfloat16
    np.testing.assert_array_equal(y, norm(total, weight))


@BOTH
def test_a_row_of_equal_numbers_has_finite_gradients(norm):
    x, weight = jnp.zeros((1, 8)), jnp.ones(8)
    assert np.isfinite(jax.grad(lambda x: norm(x, weight).sum())(x)).all()


@BOTH
def test_gradients_are_those_of_finite_differences(norm):
    with jax.enable_x64(True):
        arrays = drawn((2, 12), (12,), (12,), (2, 12), dtype=jnp.float64)
        keep = jnp.asarray(np.random.default_rng(1).random((2, 12)) < 0.7)
        pull = drawn((2, 12), (2, 12), seed=2, dtype=jnp.float64)

        def total(x, weight, bias, residual):
            out = norm(x, weight, bias, residual=residual, dropout=0.3, keep=keep)
            return sum((a * b).sum() for a, b in zip(out, pull, strict=True))

        check_grads(total, arrays, order=1, modes=["fwd", "rev"])


def kept(dropout, key, size=64):
    """Where the entries of a square survive: the residual shows it."""
    return np.asarray(_residual(dropout, key, size)) != 0


@functools.partial(jax.jit, static_argnums=(0, 2))
def _residual(dropout, key, size):
    ones = jnp.ones((size, size))
    return layernorm(ones, ones[0], residual=0 * ones, dropout=dropout, key=key)[1]


def test_the_same_key_drops_the_same_entries_and_another_key_others():
    a, b = (kept(0.5, jax.random.key(seed)) for seed in (0, 1))
    np.testing.assert_array_equal(a, kept(0.5, jax.random.key(0)))
    # Independent masks agree on half of 4096 entries, with a deviation of 32: five of them.
    assert abs((a == b).sum() - 2048) < 160


@given(st.integers(0, 2**31 - 1), st.sampled_from([0.05, 0.1, 0.5, 0.9]))
def test_the_share_that_is_dropped_is_the_probability(seed, dropout):
    dropped = ~kept(dropout, jax.random.key(seed))
    deviation = np.sqrt(dropout * (1 - dropout))
    # Five deviations of a binomial: of all entries, and of each row and column.
    assert abs(dropped.mean() - dropout) < 5 * deviation / 64
    for axis in (0, 1):
        assert (np.abs(dropped.mean(axis) - dropout) < 5.5 * deviation / 8 + 1 / 64).all()


def test_neighbouring_entries_are_dropped_independently():
    """Correlations at small distances along rows and columns, within five deviations of 0."""
    x = 2.0 * kept(0.5, jax.random.key(3), 512) - 1
    for down in range(4):
        for right in range(4):
            if down or right:
                shifted = np.roll(x, (down, right), (0, 1))
                assert abs((x * shifted).mean()) < 5 / 512


def test_dropout_keeps_the_expectation():
    x, zeros = jnp.full((256, 256), 3.0), jnp.zeros((256, 256))
    _, total = layernorm(x, x[0], residual=zeros, dropout=0.25, key=jax.random.key(0))
    assert set(np.unique(total)) == {0.0, 4.0}
    # Entries deviate by sqrt(3); the mean of 65536 by 256 times less: five of those.
    assert abs(total.mean() - 3) < 5 * np.sqrt(3) / 256


@BOTH
def test_gradients_flow_where_entries_were_kept(norm):
    x, r, weight = drawn((4, 32), (4, 32), (32,))
    key = jax.random.key(7)

    def total(x, r):
        return (norm(x, weight, residual=r, dropout=0.5, key=key)[0] * x).sum()

    _, residual = norm(x, weight, residual=0 * r, dropout=0.5, key=key)
    dx, dr = jax.grad(total, (0, 1))(jax.lax.stop_gradient(x), r)
    y = norm(x, weight, residual=r, dropout=0.5, key=key)[0]
    np.testing.assert_allclose(dx - y, np.where(residual == 0, 0, 2 * dr), rtol=0, atol=1e-4)


@BOTH
def test_vmap_equals_a_loop(norm):
    x, r, weight = drawn((3, 4, 8), (3, 4, 8), (8,))
    keys = jax.random.split(jax.random.key(0), 3)
    run = lambda x, r, key: norm(x, weight, residual=r, dropout=0.3, key=key)  # noqa: E731
    loop = [run(*args) for args in zip(x, r, keys, strict=True)]
    for got, expected in zip(jax.vmap(run)(x, r, keys), zip(*loop, strict=True), strict=True):
        np.testing.assert_allclose(got, jnp.stack(expected), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"weight": jnp.ones(3)}, ValueError, r"weight must have shape \(4,\); got \(3,\)"),
        ({"bias": jnp.ones((1, 4))}, ValueError, r"bias must have shape \(4,\); got \(1, 4\)"),
        ({"residual": jnp.ones((1, 4))}, ValueError, r"residual must have shape \(2, 4\); got"),
        ({"x": jnp.ones((0, 4))}, ValueError, r"x must have at least one row .* is \(0, 4\)"),
        ({"weight": jnp.ones(4, jnp.bfloat16)}, TypeError, "x float32, weight bfloat16"),
        ({"x": jnp.ones((2, 4), int), "weight": jnp.ones(4, int)}, TypeError, "floating type"),
        ({"dropout": 1.0}, ValueError, r"dropout must be in \[0, 1\); got 1.0"),
        ({"dropout": 0.1}, ValueError, "a key or a keep array, one of them; got neither"),
        ({"keep": jnp.ones((2, 4))}, TypeError, "keep must be of type bool; got float32"),
        ({"keep": jnp.ones((2, 3), bool)}, ValueError, r"keep must have shape \(2, 4\); got"),
        ({"eps": -1e-5}, ValueError, "eps must be at least 0; got -1e-05"),
        ({"implementation": "cuda"}, ValueError, "got 'cuda'"),
    ],
)
@BOTH
def test_bad_input_is_named(norm, change, error, message):
    arguments = {"x": jnp.ones((2, 4)), "weight": jnp.ones(4)} | change
    with pytest.raises(error, match=f"{norm.__name__}: .*{message}"):
        norm(**arguments)
