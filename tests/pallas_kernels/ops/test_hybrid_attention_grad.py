"""Gradients of hybrid attention: against differences of the definition, and form against form."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels.ops.hybrid_attention import hedgehog_attention, hybrid_attention, xla
from pallas_kernels.ops.hybrid_attention.operands import Rule, operands

NAMES = ("q", "k", "v", "phi_q", "phi_k", "window_factor", "linear_factor")


def drawn(length, seed=0):
    """In float64: q, k, v, phi_q, phi_k, factors; heads share keys, values and features."""
    rng = np.random.default_rng(seed)
    shapes = [(4, 6), (2, 6), (2, 3), (4, 5), (1, 5)]
    tokens = [rng.normal(size=(2, length, *s)) for s in shapes]
    tokens[3:] = [np.exp(x) for x in tokens[3:]]
    return [jnp.asarray(x) for x in (*tokens, *rng.uniform(0.1, 2, size=(2, 4)))]


def difference(f, arrays, direction):
    """Derivative of f along a direction, from values on both sides; the error is about 1e-8."""
    step = 1e-5
    high, low = ([x + s * d for x, d in zip(arrays, direction, strict=True)] for s in (step, -step))
    return (f(*high) - f(*low)) / (2 * step)


def check_gradients(f, arrays, seed=1):
    rng, f = np.random.default_rng(seed), jax.jit(f)
    found = jax.jit(jax.grad(f, argnums=tuple(range(len(arrays)))))(*arrays)
    for i, x in enumerate(arrays):
        direction = [jnp.zeros_like(a) for a in arrays]
        direction[i] = jnp.asarray(rng.normal(size=x.shape))
        expected = difference(f, arrays, direction)
        np.testing.assert_allclose((found[i] * direction[i]).sum(), expected, rtol=1e-6, atol=1e-8)


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("kind", ["terrace", pytest.param("sliding", marks=pytest.mark.slow)])
def test_every_input_and_state_has_its_gradient(kind):
    """The maximum moves with q and k and is not neutral; held fixed, it would fail this."""
    tokens, factors = drawn(40)[:5], drawn(1)[5:]
    weights = jnp.asarray(np.random.default_rng(2).normal(size=(2, 25, 4, 3)))
    run = functools.partial(hybrid_attention, kind=kind, window=6, eps=0.1)

    def loss(*arrays):
        early, late = ([x[:, part] for x in arrays[:5]] for part in (slice(15), slice(15, None)))
        _, state = run(*early, *arrays[5:], return_state=True)
        y, end = run(*late, *arrays[5:], initial_state=state, return_state=True)
        return (y * weights).sum() + jnp.sin(end.kv).sum() + jnp.cos(end.k_sum).sum()

    check_gradients(loss, [*tokens, *factors])


@pytest.mark.parametrize("kind", ["terrace", "sliding"])
def test_the_forms_have_one_gradient(kind):
    arrays, rule = drawn(70), Rule(9, kind, 0.4, 0.0)
    weights = jnp.asarray(np.random.default_rng(2).normal(size=(2, 70, 4, 3)))

    def gradients(form):
        loss = lambda *a: (form(operands(*a), rule) * weights).sum()  # noqa: E731
        return jax.jit(jax.grad(loss, argnums=tuple(range(7))))(*arrays)

    pairs = zip(NAMES, gradients(xla.quadratic), gradients(xla.chunked), strict=True)
    for name, expected, found in pairs:
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-10, err_msg=name)


def test_hedgehog_maps_and_factors_learn():
    rng = np.random.default_rng(3)
    shapes = [(1, 30, 2, 6), (1, 30, 1, 6), (1, 30, 1, 3), (2, 6, 4), (2, 6, 4), (2,), (2,)]
    arrays = [jnp.asarray(rng.uniform(0.1, 2, size=s)) for s in shapes]
    weights = jnp.asarray(rng.normal(size=(1, 30, 2, 3)))

    def loss(*arrays):
        y, kv, k_sum = hedgehog_attention(*arrays, window=5, return_state=True)
        return (y * weights).sum() + jnp.cos(kv).sum() + jnp.sin(k_sum).sum()

    check_gradients(loss, arrays)
