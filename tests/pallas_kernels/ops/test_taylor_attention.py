"""Laws of Taylor attention: equal forms, resumed states, gradients, relabelling, bad input."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pallas_kernels.ops.taylor_attention import taylor_attention, xla
from pallas_kernels.ops.taylor_attention.operands import Operands, features
from tests.pallas_kernels.reference import close

SEEDS = st.integers(0, 2**31)
# Edges of chunks, a prime, both ends of the range; few, because every length is a compilation.
SIZES = [(1, 4), (2, 1), (63, 2), (64, 4), (65, 2), (131, 1), (300, 2)]
# Sums of a few hundred float32 products in another order.
ROUNDING = 2e-5


def drawn(length, seed=0, batch=2, heads=4, kv_heads=2, d=5, p=3, dtype=jnp.float32):
    rng = np.random.default_rng(seed)
    shapes = (heads, d), (kv_heads, d), (kv_heads, p)
    return [jnp.asarray(rng.normal(size=(batch, length, *s)), dtype) for s in shapes]


FORMS = {n: jax.jit(getattr(xla, n)) for n in ("quadratic", "chunked", "recurrent")}


@functools.partial(jax.jit, static_argnames="normalize")
def attend(q, k, v, state=None, normalize=True):
    return taylor_attention(q, k, v, normalize=normalize, initial_state=state, return_state=True)


def test_the_features_give_the_series():
    q, k = np.random.default_rng(0).normal(size=(2, 20, 6))
    z = (q * k).sum(-1) / np.sqrt(6)
    close((features(jnp.asarray(q)) * features(jnp.asarray(k))).sum(-1), 1 + z + z**2 / 2, ROUNDING)


@pytest.mark.parametrize(("length", "kv_heads"), SIZES)
@given(seed=SEEDS)
@settings(max_examples=8)
def test_chunked_is_quadratic_is_recurrent(length, kv_heads, seed):
    x = Operands(*drawn(length, seed, kv_heads=kv_heads))
    state = jnp.asarray(np.random.default_rng(seed).normal(size=(2, kv_heads, 31, 4)), x.q.dtype)
    expected = FORMS["quadratic"](x, state)
    for name in ("chunked", "recurrent"):
        for found, wanted in zip(FORMS[name](x, state), expected, strict=True):
            close(found, wanted, ROUNDING)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize(("first", "rest"), [(1, 1), (40, 1), (64, 66)])
def test_a_state_resumes_anywhere(first, rest, normalize):
    arrays = drawn(first + rest)
    early, late = ([x[:, part] for x in arrays] for part in (slice(first), slice(first, None)))
    y1, middle = attend(*early, normalize=normalize)
    y2, end = attend(*late, middle, normalize=normalize)
    y, last = attend(*arrays, normalize=normalize)
    close(jnp.concatenate([y1, y2], axis=1), y, ROUNDING)
    for x, expected in zip(end, last, strict=True):
        close(x, expected, ROUNDING)


def test_later_tokens_change_nothing():
    arrays = drawn(100)
    y, _ = attend(*arrays)
    close(attend(*(x.at[:, 70:].set(9.0) for x in arrays))[0][:, :70], y[:, :70], ROUNDING)
    close(attend(*(x[:, :70] for x in arrays))[0], y[:, :70], ROUNDING)


@given(st.permutations(range(4)), SEEDS)
@settings(max_examples=8)
def test_heads_do_not_know_their_number_and_batches_neither(order, seed):
    order, arrays = np.array(order), drawn(70, seed, batch=4, kv_heads=4)
    y, state = attend(*arrays)
    close(attend(*(x[:, :, order] for x in arrays))[0], y[:, :, order], ROUNDING)
    close(attend(*(x[order] for x in arrays))[1].a2, state.a2[order], ROUNDING)


def test_heads_of_a_group_share_keys_and_values():
    q, k, v = drawn(70)
    own = [jnp.repeat(x, 2, axis=2) for x in (k, v)]
    close(attend(q, k, v)[0], attend(q, *own)[0], ROUNDING)


def test_vmap_is_a_loop():
    arrays = [jnp.stack(pair) for pair in zip(drawn(67), drawn(67, 1), strict=True)]
    loop = [attend(*(x[i] for x in arrays)) for i in range(2)]
    leaves = [jax.tree.leaves(tree) for tree in (jax.vmap(attend)(*arrays), *loop)]
    for x, *ys in zip(*leaves, strict=True):
        close(x, jnp.stack(ys), ROUNDING)


@pytest.mark.parametrize("length", [20, 600])
def test_inside_shard_map_nothing_changes(length):
    mesh = jax.make_mesh((1,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    arrays, spec = drawn(length), jax.sharding.PartitionSpec("x")
    split = jax.shard_map(taylor_attention, mesh=mesh, in_specs=spec, out_specs=spec)

    def gradients(run):
        return jax.jit(jax.grad(lambda *x: (run(*x) ** 2).sum(), argnums=(0, 1, 2)))(*arrays)

    for x, expected in zip(gradients(split), gradients(taylor_attention), strict=True):
        close(x, expected, ROUNDING)


def test_two_tokens_by_hand():
    # d = 1: z = q k. Token 1: z = (2, -1), weights 1 + 2 + 2 = 5 and 1 - 1 + 1/2 = 1/2.
    column = lambda *x: jnp.array(x)[None, :, None, None]  # noqa: E731
    arrays = column(0.0, 1.0), column(2.0, -1.0), column(3.0, 4.0)
    y, state = attend(*arrays, normalize=False)
    np.testing.assert_allclose(y.ravel(), [3, 17], rtol=1e-6)
    np.testing.assert_allclose(attend(*arrays)[0].ravel(), [3, 17 / 5.5], rtol=1e-6)
    # sums of 1, k and k^2 / sqrt(2): with v (7, 2, 16 / sqrt 2), with ones (2, 1, 5 / sqrt 2)
    expected = [7, 2, 16 / np.sqrt(2), 2, 1, 5 / np.sqrt(2)]
    np.testing.assert_allclose([float(x.squeeze()) for x in state], expected, rtol=1e-6)


@pytest.mark.parametrize("form", ["quadratic", "chunked", "recurrent"])
def test_gradients_are_differences_of_the_definition(form):
    """Central differences in float64: 1e-9 and what cancels."""
    with jax.enable_x64(True):
        rng = np.random.default_rng(1)
        arrays = [*drawn(70, dtype=float), jnp.asarray(rng.normal(size=(2, 2, 31, 4)))]
        weights = jnp.asarray(rng.normal(size=(2, 70, 4, 3)))
        definition, form = (FORMS[name] for name in ("quadratic", form))

        def loss(form, *arrays):
            out, state = form(Operands(*arrays[:3]), arrays[3])
            return (out[..., :-1] / out[..., -1:] * weights).sum() + jnp.sin(state).sum()

        found = jax.grad(functools.partial(loss, form), argnums=(0, 1, 2, 3))(*arrays)
        for i, x in enumerate(arrays):
            step = jnp.asarray(rng.normal(size=x.shape)) * 1e-5
            high, low = ([*arrays[:i], x + s, *arrays[i + 1 :]] for s in (step, -step))
            expected = (loss(definition, *high) - loss(definition, *low)) / 2
            np.testing.assert_allclose((found[i] * step).sum(), expected, rtol=1e-5, atol=1e-11)


def test_bfloat16_in_and_out_is_summed_in_float32():
    narrow = drawn(200, dtype=jnp.bfloat16)
    y, state = attend(*narrow)
    wide, _ = attend(*(x.astype(jnp.float32) for x in narrow))
    assert (y.dtype, state.a0.dtype) == (jnp.bfloat16, jnp.float32)
    close(y, wide, 2**-8)  # one rounding, of the result


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"k": jnp.ones((2, 3, 2, 4))}, ValueError, r"k must have shape .* d = 5\); got"),
        ({"q": jnp.ones((2, 0, 4, 5))}, ValueError, "q has no l: its shape is"),
        (
            {"k": jnp.ones((2, 3, 3, 5)), "v": jnp.ones((2, 3, 3, 3))},
            ValueError,
            "kv_heads must divide h = 4; got 3",
        ),
        ({"v": jnp.ones((2, 3, 2, 5), jnp.bfloat16)}, TypeError, "k float32, v bfloat16"),
        ({"implementation": "cuda"}, ValueError, "implementation must be one of .*; got 'cuda'"),
    ],
)
def test_bad_input_is_named(change, error, message):
    with pytest.raises(error, match=message):
        taylor_attention(**(dict(zip("qkv", drawn(3), strict=True)) | change))


def test_a_state_of_another_size_is_refused():
    _, state = attend(*drawn(3, p=4))
    with pytest.raises(ValueError, match=r"initial_state.a0 must be float32\[2, 2, 3\]; got"):
        taylor_attention(*drawn(3), initial_state=state)
