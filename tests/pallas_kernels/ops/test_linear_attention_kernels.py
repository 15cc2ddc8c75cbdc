"""The Hopper and Triton kernels of the decaying scan, interpreted, against the definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels import _compat
from pallas_kernels.ops.linear_attention import linear_attention, streams
from pallas_kernels.ops.mamba2 import mamba2
from tests.pallas_kernels.reference import close

MOSAIC = {"implementation": "mosaic_gpu", "interpret": True}
TRITON = {"implementation": "triton", "interpret": True}
# Operands of products, the states among them, are rounded to 2**-9 each; sums of a hundred such.
BF16 = 1e-2
# Sums of a few hundred float32 products in another order.
ROUNDING = 2e-5


def drawn(length, heads, n, p, batch=1, dtype=jnp.bfloat16, seed=0):
    """q, k, v, log_decay, initial state, and the cotangents of output and last state."""
    rng = np.random.default_rng(seed)

    def normal(*shape, dtype=jnp.float32):
        return jnp.asarray(rng.normal(size=shape), dtype)

    tokens = (batch, length, heads)
    qkv = [normal(*tokens, size, dtype=dtype) for size in (n, n, p)]
    decay = -0.1 * jnp.abs(normal(*tokens))
    arrays = (*qkv, decay, normal(batch, heads, n, p))
    return arrays, (normal(*tokens, p, dtype=dtype), normal(batch, heads, n, p))


def attend(q, k, v, log_decay, state, **settings):
    return linear_attention(
        q,
        k,
        v,
        log_decay=log_decay,
        initial_state=state,
        scale=0.3,
        return_state=True,
        **settings,
    )


def gradients(arrays, cotangents, call=attend, **settings):
    """Outputs and the derivatives of all inputs."""
    outputs, pull = jax.vjp(lambda *x: call(*x, **settings), *arrays)
    dtypes = [x.dtype for x in jax.tree.leaves(outputs)]
    cotangents = [x.astype(t) for x, t in zip(cotangents, dtypes, strict=True)]
    return *outputs, *pull(tuple(cotangents))


def wide(arrays):
    return [x.astype(jnp.float32) for x in arrays]


@pytest.mark.parametrize(
    ("heads", "n", "p"),
    [
        pytest.param(3, 16, 40, id="sizes below 64, an odd number of heads"),
        pytest.param(1, 128, 128, id="a head as two streams"),
        pytest.param(2, 128, 64, id="two heads, states of two tiles"),
    ],
)
@pytest.mark.slow
def test_the_hopper_kernel_and_its_derivatives(heads, n, p):
    arrays, cotangents = drawn(70, heads, n, p)
    found = gradients(arrays, cotangents, **MOSAIC)
    assert not _compat.races_found()
    expected = gradients(wide(arrays), cotangents)
    for x, y in zip(found, expected, strict=True):
        close(x, y, BF16)


@pytest.mark.slow
def test_more_chunks_than_stages():
    arrays, cotangents = drawn(6 * 64, 1, 64, 64)
    found = gradients(arrays, cotangents, **MOSAIC)
    assert not _compat.races_found()
    for x, y in zip(found, gradients(wide(arrays), cotangents), strict=True):
        close(x, y, BF16)


@pytest.mark.parametrize(("heads", "groups"), [(4, 2), (3, 1)])
@pytest.mark.slow
def test_the_hopper_kernel_shares_groups(heads, groups):
    """Both heads of a pair in one group; three heads in one, which no pairs of heads are."""
    (q, k, v, dt, _), (dy, _) = drawn(64, heads, 32, 64)
    B, C = q[:, :, :groups], k[:, :, :groups]
    arrays = (v, -dt, -jnp.ones(heads), B, C)

    def layer(*arrays, **settings):
        return (mamba2(*arrays, **settings),)

    found = gradients(arrays, [dy], layer, **MOSAIC)
    assert not _compat.races_found()
    for x, y in zip(found, gradients(wide(arrays), [dy], layer), strict=True):
        close(x, y, BF16)


@pytest.mark.slow
def test_vmap_of_the_hopper_kernel_is_a_loop():
    pairs = [drawn(64, 1, 64, 64, seed=seed)[0] for seed in (0, 1)]
    stacked = [jnp.stack(x) for x in zip(*pairs, strict=True)]
    mapped = jax.vmap(lambda *x: attend(*x, **MOSAIC))(*stacked)
    for x, *ys in zip(mapped, *(attend(*pair, **MOSAIC) for pair in pairs), strict=True):
        np.testing.assert_array_equal(x, jnp.stack(ys))


@pytest.mark.slow
def test_the_triton_kernel_and_its_derivatives():
    arrays, cotangents = drawn(130, 3, 20, 100, batch=2, dtype=jnp.float32)
    found = gradients(arrays, cotangents, **TRITON)
    for x, y in zip(found, gradients(arrays, cotangents), strict=True):
        close(x, y, ROUNDING)


def test_derivatives_of_slopes_that_are_constant_are_not_made():
    """The backward pass of constant slopes writes no states and no float32 derivatives."""
    (q, k, v, *_), (do, _) = drawn(64, 2, 64, 64)
    slopes = jnp.ones(2)

    def call(q, slopes):
        return linear_attention(q, k, v, slopes=slopes, **MOSAIC)

    def kernels(call, *arrays):
        return str(jax.make_jaxpr(lambda *x: jax.vjp(call, *x)[1](do))(*arrays))

    states = "bf16[1,1,2,64,64]"  # batch, chunks, streams, n, columns
    assert states not in kernels(lambda q: call(q, slopes), q)
    assert states in kernels(call, q, slopes)


@pytest.mark.parametrize("halves", [1, 2])
def test_states_by_stream_and_back(halves):
    state = jnp.arange(2 * 4 * 64 * 64 * halves).reshape(2, 4, 64, 64 * halves)
    there = streams.by_stream(state, halves)
    assert there.shape == (2, 4 * halves, 64, 64)
    np.testing.assert_array_equal(there[:, halves], state[:, 1, :, :64])
    np.testing.assert_array_equal(streams.by_head(there, halves), state)


def test_it_differentiates_inside_shard_map():
    """Types only: the interpreter runs one device at a time."""
    mesh = jax.make_mesh((1,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    (q, k, v, *_), (do, _) = drawn(64, 2, 64, 64)
    parts = jax.sharding.PartitionSpec("x")
    specs = {"in_specs": (parts, parts, parts, jax.sharding.PartitionSpec()), "out_specs": parts}

    def call(q, k, v, slopes):
        return linear_attention(q, k, v, slopes=slopes, **MOSAIC)

    def pull(*arrays):
        return jax.vjp(jax.shard_map(call, mesh=mesh, **specs), *arrays)[1](do)

    shapes = jax.eval_shape(jax.jit(pull), q, k, v, jnp.ones(2))
    assert [x.shape for x in shapes] == [q.shape, k.shape, v.shape, (2,)]


@pytest.mark.parametrize(
    ("n", "dtype", "settings", "message"),
    [
        (200, jnp.bfloat16, {}, "its n and p are at most 128; got 200 and 8"),
        (8, jnp.bfloat16, {"chunk": 32}, "its chunk is 64; got 32"),
        (8, jnp.float32, {}, "it takes bfloat16 or float16; got float32"),
    ],
)
def test_what_the_hopper_kernel_does_not_take_is_named(n, dtype, settings, message):
    (q, k, v, *_), _ = drawn(3, 1, n, 8, dtype=dtype)
    with pytest.raises(NotImplementedError, match=message):
        linear_attention(q, k, v, **settings, **MOSAIC)


@pytest.mark.parametrize("implementation", ["mosaic_gpu", "triton"])
def test_float64_is_for_xla(implementation):
    with jax.enable_x64(True):
        q = jnp.ones((1, 3, 1, 8), jnp.float64)
        with pytest.raises(NotImplementedError, match="got float64"):
            linear_attention(q, q, q, implementation=implementation, interpret=True)
        assert linear_attention(q, q, q).dtype == jnp.float64


def test_decays_may_be_wider_than_what_the_kernel_takes():
    with jax.enable_x64(True):
        (q, k, v, decay, _), _ = drawn(64, 1, 16, 16)
        wide_decay = decay.astype(jnp.float64)
        o = linear_attention(q, k, v, log_decay=wide_decay, **TRITON)
        close(o, linear_attention(q, k, v, log_decay=wide_decay), BF16)
