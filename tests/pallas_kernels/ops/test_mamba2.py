"""Laws of Mamba-2's scan: the authors' recurrence, groups, the skip, resumed states, bad input."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pallas_kernels.ops.linear_attention import linear_attention
from pallas_kernels.ops.mamba2 import mamba2
from tests.pallas_kernels.reference import close

# Sums of a few hundred float32 products in another order.
ROUNDING = 2e-5


def drawn(length, seed=0, batch=2, heads=4, groups=2, p=5, n=6):
    """x, dt, A, B, C, D and the initial state."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(batch, length, heads, p))
    dt = rng.exponential(size=(batch, length, heads))
    bc = [rng.normal(size=(batch, length, groups, n)) for _ in range(2)]
    rates = -rng.exponential(size=heads)
    arrays = (x, dt, rates, *bc, rng.normal(size=heads), rng.normal(size=(batch, heads, p, n)))
    return [jnp.asarray(x, jnp.float32) for x in arrays]


@functools.partial(jax.jit, static_argnames="chunk")
def layer(x, dt, A, B, C, D, state, chunk=64):
    return mamba2(x, dt, A, B, C, D=D, initial_state=state, return_state=True, chunk=chunk)


def by_recurrence(x, dt, A, B, C, D, state):
    """The authors' definition, token by token, in numpy and float64."""
    x, dt, A, B, C, D, h = (np.asarray(z, np.float64) for z in (x, dt, A, B, C, D, state))
    repeats, ys = x.shape[2] // B.shape[2], []
    for t in range(x.shape[1]):
        b, c = (np.repeat(z[:, t], repeats, axis=1) for z in (B, C))
        h = np.exp(dt[:, t] * A)[..., None, None] * h
        h = h + (dt[:, t, :, None] * x[:, t])[..., None] * b[:, :, None, :]
        ys.append((h * c[:, :, None, :]).sum(-1) + D[:, None] * x[:, t])
    return np.stack(ys, axis=1), h


@pytest.mark.parametrize(
    ("length", "groups", "chunk"), [(1, 4, 64), (65, 1, 64), (64, 2, 16), (200, 2, 64)]
)
@given(seed=st.integers(0, 2**31))
@settings(max_examples=8)
def test_it_is_the_authors_recurrence(length, groups, chunk, seed):
    arrays = drawn(length, seed, groups=groups)
    for x, expected in zip(layer(*arrays, chunk=chunk), by_recurrence(*arrays), strict=True):
        close(x, expected, ROUNDING)


def test_the_state_of_the_first_half_resumes_the_second():
    x, dt, A, B, C, D, state = drawn(90)
    parts = [[z[:, part] for z in (x, dt, B, C)] for part in (slice(50), slice(50, None))]
    ys = []
    whole, last = layer(x, dt, A, B, C, D, state)
    for part_x, part_dt, part_B, part_C in parts:
        y, state = layer(part_x, part_dt, A, part_B, part_C, D, state)
        ys.append(y)
    close(jnp.concatenate(ys, axis=1), whole, ROUNDING)
    close(state, last, ROUNDING)


def test_it_is_linear_attention_with_a_decay_per_token():
    x, dt, A, B, C, *_ = drawn(66, groups=4)
    o = linear_attention(C, B, dt[..., None] * x, log_decay=dt * A[None, None])
    close(mamba2(x, dt, A, B, C), o, ROUNDING)


def test_no_step_changes_nothing_and_reads_the_state():
    x, dt, A, B, C, D, state = drawn(3)
    y, last = layer(x, 0 * dt, A, B, C, 0 * D, state)
    np.testing.assert_array_equal(last, state)
    close(y[:, 1], jnp.einsum("bhpn,bhn->bhp", state, jnp.repeat(C[:, 1], 2, axis=1)), 1e-6)


def test_vmap_is_a_loop():
    arrays = drawn(20), drawn(20, 1)
    mapped = jax.vmap(layer)(*(jnp.stack(z) for z in zip(*arrays, strict=True)))
    for i, one in enumerate(arrays):
        for x, y in zip(mapped, layer(*one), strict=True):
            close(x[i], y, ROUNDING)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"dt": jnp.ones((1, 3, 2))}, ValueError, r"mamba2: dt must have shape .*heads = 4\); got"),
        ({"B": jnp.ones((1, 3, 2, 5))}, ValueError, r"C must have shape .*n = 5\); got"),
        ({"A": jnp.ones(1)}, ValueError, r"A must have shape \(heads = 4\); got \(1,\)"),
        ({"C": jnp.ones((1, 3, 2, 6), jnp.float16)}, TypeError, "B float32, C float16"),
        ({"initial_state": jnp.ones((1, 4, 6, 5))}, ValueError, r"p = 5, n = 6\); got"),
        ({"chunk": -1}, ValueError, "mamba2: chunk must be an integer .*; got -1"),
    ],
)
def test_bad_input_is_named(change, error, message):
    named = dict(zip(("x", "dt", "A", "B", "C"), drawn(3, batch=1), strict=False))
    with pytest.raises(error, match=message):
        mamba2(**(named | change))


def test_groups_that_do_not_divide_the_heads_are_named():
    x, dt, A, *_ = drawn(3)
    B = C = jnp.ones((2, 3, 3, 6))
    with pytest.raises(ValueError, match="must divide the 4 heads of x; got 3"):
        mamba2(x, dt, A, B, C)
