"""Derivatives of decaying linear attention, and the scan that kernels make them with."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from pallas_kernels.ops.linear_attention import grad, linear_attention, xla
from pallas_kernels.ops.mamba2 import mamba2
from tests.pallas_kernels.reference import close


def drawn(*shapes, seed=0, dtype=jnp.float32):
    rng = np.random.default_rng(seed)
    return [jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes]


def inputs(length, heads=2, groups=2, n=3, p=4, dtype=jnp.float32):
    """q, k, v, log_decay, initial state, and the cotangents of output and last state."""
    tokens, state = (2, length), (2, heads, n, p)
    shapes = ((*tokens, groups, n),) * 2 + ((*tokens, heads, p), (*tokens, heads), state)
    q, k, v, decay, initial, do, dstate = drawn(*shapes, shapes[2], state, dtype=dtype)
    return (q, k, v, -jnp.abs(decay) * 0.3, initial), (do, dstate)


def scan_by_chunks(scale, q, k, v, log_decay, state, *, reverse, states, out_dtype):
    """`grad.Scan` out of forward scans, one per chunk; in reverse time its tokens turned round."""
    turn = functools.partial(jnp.flip, axis=1) if reverse else lambda x: x
    starts = range(0, q.shape[1], grad.CHUNK)
    parts, before = [], []
    for start in starts[::-1] if reverse else starts:
        before.append(state)
        decay, *qkv = (x[:, start : start + grad.CHUNK] for x in (log_decay, q, k, v))
        # In reverse, what comes into a token is decayed by the token after; into the chunk, before.
        shifted = jnp.roll(decay, -1, axis=1).at[:, -1].set(0.0) if reverse else decay
        o, state = xla.quadratic(*map(turn, qkv), turn(shifted), state)
        state = jnp.exp(decay[:, 0])[..., None, None] * state if reverse else state
        parts.append(turn(o))
    o = scale * jnp.concatenate(parts[::-1] if reverse else parts, axis=1)
    before = jnp.stack(before[::-1] if reverse else before, axis=1)
    return o.astype(out_dtype), state, before if states else None


@pytest.mark.parametrize(("length", "groups"), [(1, 2), (70, 2), (130, 1)])
def test_the_backward_pass_is_the_same_scan(length, groups):
    """1e-12: float64 sums of a few thousand products."""
    scale = 0.7
    with jax.enable_x64(True):
        arrays, cotangents = inputs(length, groups=groups, dtype=jnp.float64)

        @jax.jit
        def both(arrays, cotangents):
            (_, last), pull = jax.vjp(lambda q, *x: xla.recurrent(scale * q, *x), *arrays)
            scan = functools.partial(scan_by_chunks, scale)
            found = grad.backward(scan, scale, arrays, last, *cotangents, of_decay=True)
            return found, pull(cotangents)

        for x, expected in zip(*both(arrays, cotangents), strict=True):
            close(x, expected, 1e-12)


def test_a_constant_decay_has_no_derivative_and_the_others_are_the_same():
    arrays, cotangents = inputs(2)

    @functools.partial(jax.jit, static_argnames="of_decay")
    def backward(arrays, cotangents, of_decay):
        _, last = xla.chunked(*arrays)
        scan = functools.partial(scan_by_chunks, 1.0)
        return grad.backward(scan, 1.0, arrays, last, *cotangents, of_decay=of_decay)

    found, full = (backward(arrays, cotangents, of_decay=x) for x in (False, True))
    assert found[3] is None
    for i in (0, 1, 2, 4):
        close(found[i], full[i], 1e-6)  # one more rounding where the accumulator's type is wanted


def test_derivatives_are_differences():
    """Of every argument, the state going in and coming out included."""
    with jax.enable_x64(True):
        (q, k, v, decay, state), _ = inputs(9, dtype=jnp.float64)

        def constant(q, k, v, slopes, state):
            return linear_attention(
                q, k, v, slopes=slopes, initial_state=state, return_state=True, chunk=4
            )

        def varying(q, k, v, decay, state):
            return linear_attention(
                q, k, v, log_decay=decay, initial_state=state, scale=0.5, return_state=True, chunk=4
            )

        constant, varying = jax.jit(constant), jax.jit(varying)
        check_grads(constant, (q, k, v, jnp.array([0.1, 0.7]), state), order=1, modes=["rev"])
        check_grads(varying, (q, k, v, decay, state), order=1)


def test_derivatives_of_mamba2_are_differences():
    with jax.enable_x64(True):
        x, dt, A, B, C, D, state = drawn(
            (1, 7, 2, 3), (1, 7, 2), (2,), (1, 7, 1, 4), (1, 7, 1, 4), (2,), (1, 2, 3, 4),
            dtype=jnp.float64,
        )  # fmt: skip

        def layer(x, dt, A, B, C, D, state):
            return mamba2(x, dt, A, B, C, D=D, initial_state=state, return_state=True, chunk=4)

        check_grads(
            jax.jit(layer), (x, jnp.abs(dt), -jnp.abs(A), B, C, D, state), order=1, modes=["rev"]
        )


def test_derivatives_in_float32_hold_for_long_sequences():
    """1e-5: the log decay's derivative is made chunk by chunk, not by one long running sum."""
    arrays, cotangents = inputs(4000, n=8, p=8)

    def attend(*arrays):
        q, k, v, decay, state = arrays
        return linear_attention(q, k, v, log_decay=decay, initial_state=state, return_state=True)

    found = jax.jit(lambda *x: jax.vjp(attend, *x)[1](cotangents))(*arrays)
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda x: x.astype(jnp.float64), (arrays, cotangents))
        expected = jax.jit(lambda x, y: jax.vjp(xla.recurrent, *x)[1](y))(*wide)
    for x, y in zip(found, expected, strict=True):
        close(x, y, 1e-5)


def test_the_memory_of_derivatives_grows_with_the_length_and_not_its_square():
    def bytes_at(length):
        arrays, _ = inputs(length, n=16, p=16)

        def loss(q, k, v, decay, state):
            return linear_attention(q, k, v, log_decay=decay, initial_state=state).sum()

        compiled = jax.jit(jax.grad(loss, argnums=(0, 1, 2, 3, 4))).lower(*arrays).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert bytes_at(4096) < 2.2 * bytes_at(2048)
