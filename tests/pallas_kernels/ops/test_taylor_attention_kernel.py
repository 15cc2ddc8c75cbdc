"""The Hopper kernels of Taylor attention, interpreted, against the definition in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels import _compat
from pallas_kernels.ops.taylor_attention import TaylorState, pairs, taylor_attention
from pallas_kernels.ops.taylor_attention.operands import features
from tests.pallas_kernels.reference import close

MOSAIC = {"implementation": "mosaic_gpu", "interpret": True}
# Operands of products, features and states among them, are rounded to 2**-9 each.
BF16 = 1e-2


def drawn(length, heads=1, kv_heads=1, d=8, p=16, seed=0):
    rng = np.random.default_rng(seed)
    shapes = (heads, d), (kv_heads, d), (kv_heads, p)
    return [jnp.asarray(rng.normal(size=(1, length, *s)), jnp.bfloat16) for s in shapes]


def drawn_state(kv_heads, d, p, seed=0):
    """A state that tokens could have left: vec(k k^T) is symmetric, the weights are positive."""
    rng = np.random.default_rng(seed)
    k, v = rng.normal(size=(1, kv_heads, 30, d)), rng.normal(size=(1, kv_heads, 30, p))
    phi = np.asarray(features(jnp.asarray(k)))
    parts = phi[..., 0], phi[..., 1 : d + 1], phi[..., d + 1 :]
    sums = [np.einsum("bhl...,bhlp->bh...p", x, v) for x in parts] + [x.sum(2) for x in parts]
    return TaylorState(*(jnp.asarray(x, jnp.float32) for x in sums))


def widened(tree):
    return jax.tree.map(lambda x: jnp.asarray(np.asarray(x, np.float64)), tree)


def test_two_blocks_and_no_race():
    arrays, call = drawn(100), functools.partial(taylor_attention, return_state=True)
    y, state = jax.jit(functools.partial(call, **MOSAIC))(*arrays)
    assert not _compat.races_found()
    assert (y.shape, y.dtype) == ((1, 100, 1, 16), jnp.bfloat16)
    with jax.enable_x64(True):
        expected, last = call(*widened(arrays), implementation="xla")
    close(y, expected, BF16)
    for x, wanted in zip(state, last, strict=True):
        close(x, wanted, BF16)


@pytest.mark.slow
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize(
    "sizes",
    [
        pytest.param({"length": 330, "heads": 2, "d": 16, "p": 64}, id="shared keys, ring wraps"),
        pytest.param({"length": 70, "heads": 2, "kv_heads": 2, "d": 5, "p": 70}, id="two slices"),
        pytest.param({"length": 2, "d": 21, "p": 3}, id="two tokens, most columns"),
    ],
)
def test_output_state_and_every_derivative(sizes, normalize):
    arrays, rng = drawn(**sizes), np.random.default_rng(1)
    initial = drawn_state(sizes.get("kv_heads", 1), sizes["d"], sizes["p"])

    def call(q, k, v, state, **settings):
        settings |= {"normalize": normalize, "initial_state": state, "return_state": True}
        return taylor_attention(q, k, v, **settings)

    outputs, pull = jax.vjp(jax.jit(lambda *x: call(*x, **MOSAIC)), *arrays, initial)
    cotangents = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), x.dtype), outputs)
    found = outputs, jax.jit(pull)(cotangents)
    assert not _compat.races_found()
    with jax.enable_x64(True):
        wide = jax.jit(lambda *x: call(*x, implementation="xla"))
        outputs, pull = jax.vjp(wide, *widened(arrays), widened(initial))
        expected = outputs, pull(widened(cotangents))
    # The two ways to write a symmetric a2 or n2 have different derivatives, of one sum.
    found, expected = (_symmetric(tree, sizes["d"]) for tree in (found, expected))
    for x, wanted in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        close(x, wanted, BF16)


def _symmetric(tree, d):
    """a2 and n2, and their derivatives, as half the sum with their transposes."""

    def mean(x):
        square = np.asarray(x, np.float64).reshape(*x.shape[:2], d, d, *x.shape[3:])
        return (square + square.swapaxes(2, 3)) / 2

    is_state = lambda x: isinstance(x, TaylorState)  # noqa: E731
    return jax.tree.map(
        lambda x: x._replace(a2=mean(x.a2), n2=mean(x.n2)) if is_state(x) else x,
        tree,
        is_leaf=is_state,
    )


@pytest.mark.slow
def test_vmap_is_a_loop():
    loop = [drawn(70, seed=seed) for seed in (0, 1)]
    stacked = [jnp.stack(x) for x in zip(*loop, strict=True)]
    run = functools.partial(taylor_attention, normalize=True, **MOSAIC)
    mapped = jax.vmap(run)(*stacked)
    np.testing.assert_array_equal(mapped, jnp.stack([run(*arrays) for arrays in loop]))


@pytest.mark.parametrize("d", [1, 2, 8, 21])
def test_the_pairs_are_the_features(d):
    """Half the products, each of weight 1 or 2 of the other half."""
    rng, chosen = np.random.default_rng(0), pairs.pairs_of(d)
    q, k = rng.normal(size=(2, 10, d))
    z = (q * k).sum(-1) / np.sqrt(d)
    ones = np.ones((10, 1))
    products = [
        x[:, chosen.first] * x[:, chosen.second]
        for x in (np.concatenate([a, ones], 1) for a in (q, k))
    ]
    np.testing.assert_allclose((products[0] * products[1]) @ chosen.weight, 1 + z + z * z / 2)
    assert len(chosen.first) == (d + 1) * (d + 2) // 2


@pytest.mark.parametrize("d", [1, pytest.param(16, marks=pytest.mark.slow)])
def test_a_state_goes_to_pairs_and_back(d):
    state = drawn_state(2, d, 4)
    rows = jnp.concatenate([state.a0[:, :, None], state.a1, state.a2], axis=2)
    chosen = pairs.pairs_of(d)
    close(pairs.from_pairs(pairs.to_pairs(rows, chosen), chosen), rows, 1e-6)
    sums = jnp.concatenate([state.n0[:, :, None], state.n1, state.n2], axis=2)
    close(pairs.state_of_moment(pairs.moment_of_state(sums, d), d), sums, 1e-6)


def test_it_differentiates_inside_shard_map():
    """Types only: the interpreter runs one device at a time."""
    mesh = jax.make_mesh((1,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    arrays, parts = drawn(64), jax.sharding.PartitionSpec("x")
    call = functools.partial(taylor_attention, normalize=True, **MOSAIC)

    def pull(*arrays):
        y, pull = jax.vjp(jax.shard_map(call, mesh=mesh, in_specs=parts, out_specs=parts), *arrays)
        return pull(y)

    shapes = jax.eval_shape(jax.jit(pull), *arrays)
    assert [x.shape for x in shapes] == [x.shape for x in arrays]


def test_more_columns_than_fit_are_refused():
    with pytest.raises(NotImplementedError, match="keys of up to 21 columns; got 22"):
        taylor_attention(*drawn(3, d=22), **MOSAIC)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_wider_types_are_for_xla(dtype):
    with jax.enable_x64(True):
        arrays = [x.astype(dtype) for x in drawn(3)]
        with pytest.raises(NotImplementedError, match=f"it takes bfloat16; got {dtype.__name__}"):
            taylor_attention(*arrays, **MOSAIC)
        assert taylor_attention(*arrays).dtype == dtype
