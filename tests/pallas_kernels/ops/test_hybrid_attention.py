"""Laws of hybrid attention: equal forms, resumed states, no look ahead, relabelling, bad input."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pallas_kernels.ops.hybrid_attention import hybrid_attention, xla
from pallas_kernels.ops.hybrid_attention.operands import Rule, operands
from pallas_kernels.ops.hybrid_attention.state import empty_state
from tests.pallas_kernels.reference import close

SEEDS = st.integers(0, 2**31)
# Edges of blocks and chunks, primes, both ends of the range; few: every length is a compilation.
LENGTHS, WINDOWS = [1, 2, 63, 65, 131, 300], [1, 3, 64, 5, 32, 64]
SIZES = [
    (kind, *sizes)
    for kind in ("terrace", "sliding")
    for sizes in zip(LENGTHS, WINDOWS, [4, 2, 1, 4, 2, 1], strict=True)
]
STATE = {"return_state": True}
# Sums of a few hundred float32 products in another order.
ROUNDING = 2e-5


def drawn(length, seed=0, batch=2, heads=4, kv_heads=2, phi_heads=4, dtype=jnp.float32):
    """q, k, v, phi_q, phi_k, window and linear factors."""
    rng = np.random.default_rng(seed)
    shapes = [(heads, 8), (kv_heads, 8), (kv_heads, 5), (heads, 6), (phi_heads, 6)]
    tokens = [rng.normal(size=(batch, length, *s)) for s in shapes]
    tokens[3:] = [np.exp(x) for x in tokens[3:]]
    return [jnp.asarray(x, dtype) for x in (*tokens, *rng.uniform(0.1, 2, size=(2, heads)))]


@functools.partial(jax.jit, static_argnames=("form", "kind", "window"))
def formed(form, arrays, kind, window, segment_ids=None):
    x, rule = operands(*arrays), Rule(window, kind, scale=0.5, eps=0.0)
    if form == "recurrent":
        return xla.recurrent(x, rule, empty_state(x, rule))[0]
    return getattr(xla, form)(x, rule, segment_ids)


@functools.partial(jax.jit, static_argnames=("kind", "window", "return_state"))
def attend(*arrays, return_state=True, **settings):
    return hybrid_attention(*arrays, return_state=return_state, **settings)


def by_hand(arrays, kind, window, scale):
    """The sums of the definition, key by key, in float64."""
    q, k, v, phi_q, phi_k, g, linear = (np.asarray(x, np.float64) for x in arrays)
    heads = q.shape[2]
    k, v, phi_k = (np.repeat(x, heads // x.shape[2], axis=2) for x in (k, v, phi_k))
    y = np.zeros((*q.shape[:3], v.shape[3]))
    for b, n, h in np.ndindex(*q.shape[:3]):
        first = n - window + 1 if kind == "sliding" else (n // window - 1) * window
        first = max(first, 0)
        scores = scale * k[b, first : n + 1, h] @ q[b, n, h]
        near = g[h] * np.exp(scores - scores.max())
        far = linear[h] * phi_k[b, :first, h] @ phi_q[b, n, h]
        y[b, n, h] = near @ v[b, first : n + 1, h] + far @ v[b, :first, h]
        y[b, n, h] /= near.sum() + far.sum()
    return y


@pytest.mark.parametrize("kind", ["terrace", "sliding"])
def test_the_quadratic_form_is_the_definition(kind):
    arrays = drawn(23)
    close(formed("quadratic", arrays, kind, 4), by_hand(arrays, kind, 4, 0.5), ROUNDING)


@pytest.mark.parametrize(
    ("kind", "length", "window", "kv_heads"),
    # Every second size of either kind here, the others in the slow tests.
    [pytest.param(*s, marks=[pytest.mark.slow] * ((i + i // 6) % 2)) for i, s in enumerate(SIZES)],
)
@given(seed=SEEDS)
@settings(max_examples=5)
def test_chunked_is_quadratic_is_recurrent(kind, length, window, kv_heads, seed):
    arrays = drawn(length, seed, kv_heads=kv_heads, phi_heads=kv_heads)
    expected = formed("quadratic", arrays, kind, window)
    for form in ("chunked", "recurrent"):
        close(formed(form, arrays, kind, window), expected, ROUNDING)


@pytest.mark.parametrize("kind", ["terrace", "sliding"])
@given(seed=SEEDS, cuts=st.lists(st.integers(0, 90), max_size=4))
@settings(max_examples=5)
def test_segments_are_sequences_of_their_own(kind, seed, cuts):
    """Wherever they begin: a terrace's blocks begin with the segment."""
    arrays, window = drawn(90, seed, batch=1), 8
    borders = sorted({0, *cuts, 90})
    ids = jnp.asarray(np.searchsorted(borders[1:], np.arange(90), side="right"))[None]
    expected = np.concatenate(
        [
            by_hand([x[:, i:j] for x in arrays[:5]] + arrays[5:], kind, window, 0.5)
            for i, j in itertools.pairwise(borders)
        ],
        axis=1,
    )
    for form in ("chunked", "quadratic"):
        close(formed(form, arrays, kind, window, ids), expected, ROUNDING)


@pytest.mark.parametrize("kind", ["terrace", "sliding"])
@pytest.mark.parametrize(
    ("first", "rest"), [(7, 50), (16, 16), pytest.param(37, 1, marks=pytest.mark.slow)]
)
def test_a_state_resumes_anywhere(kind, first, rest):
    arrays, factors = drawn(first + rest)[:5], drawn(1)[5:]
    early, late = ([x[:, part] for x in arrays] for part in (slice(first), slice(first, None)))
    y1, state = attend(*early, *factors, kind=kind, window=16)
    y2, end = attend(*late, *factors, kind=kind, window=16, initial_state=state)
    y, last = attend(*arrays, *factors, kind=kind, window=16)
    close(jnp.concatenate([y1, y2], axis=1), y, ROUNDING)
    for x, expected in zip(end, last, strict=True):
        np.testing.assert_allclose(x, expected, rtol=ROUNDING, atol=1e-4)  # sums reach 100


@pytest.mark.parametrize("kind", ["terrace", "sliding"])
def test_token_by_token_is_all_at_once(kind):
    arrays = drawn(41)
    tokens, factors, window = arrays[:5], arrays[5:], 7
    state, ys = None, []
    for i in range(41):
        token = [x[:, i : i + 1] for x in tokens]
        y, state = attend(*token, *factors, kind=kind, window=window, initial_state=state)
        ys.append(y)
    y, last = attend(*arrays, kind=kind, window=window)
    close(jnp.concatenate(ys, axis=1), y, ROUNDING)
    close(state.kv, last.kv, ROUNDING)
    np.testing.assert_array_equal(state.count, last.count)


@pytest.mark.parametrize("kind", ["terrace", "sliding"])
def test_padding_is_left_out_of_the_state_row_by_row(kind):
    arrays, more, window = drawn(50), drawn(30, seed=1), 8
    lengths = jnp.array([50, 21])
    _, state = attend(*arrays, kind=kind, window=window, lengths=lengths)
    y, _ = attend(*more[:5], *arrays[5:], kind=kind, window=window, initial_state=state)
    for row, length in enumerate([50, 21]):
        pairs = zip(arrays[:5], more[:5], strict=True)
        whole = [np.concatenate([x[row, :length], z[row]])[None] for x, z in pairs]
        expected = by_hand([*whole, *arrays[5:]], kind, window, 8**-0.5)
        close(y[row : row + 1], expected[:, length:], ROUNDING)


@pytest.mark.parametrize("kind", ["terrace", "sliding"])
def test_later_tokens_change_nothing(kind):
    arrays = drawn(150)
    y, _ = attend(*arrays, kind=kind, window=16)
    changed = [x.at[:, 100:].set(7.0) for x in arrays[:5]]
    close(attend(*changed, *arrays[5:], kind=kind, window=16)[0][:, :100], y[:, :100], ROUNDING)
    short = [x[:, :100] for x in arrays[:5]]
    close(attend(*short, *arrays[5:], kind=kind, window=16)[0], y[:, :100], ROUNDING)


@pytest.mark.parametrize("kind", ["terrace", "sliding"])
def test_lengths_of_any_integer_type_leave_padding_out_whatever_it_holds(kind):
    arrays = drawn(20)
    dirty = [x.at[:, 5:].set(jnp.nan) for x in arrays[:5]] + arrays[5:]
    expected = hybrid_attention(*arrays, kind=kind, window=4, lengths=jnp.array([5, 3]), **STATE)[1]
    for dtype in (jnp.uint32, jnp.int8):
        lengths = jnp.array([5, 3], dtype)
        state = hybrid_attention(*dirty, kind=kind, window=4, lengths=lengths, **STATE)[1]
        assert state.count.dtype == jnp.int32
        for a, b in zip(state, expected, strict=True):
            np.testing.assert_array_equal(a, b)


@given(order=st.permutations(range(4)), seed=SEEDS)
@settings(max_examples=8)
def test_heads_do_not_know_their_number_and_batches_neither(order, seed):
    order, arrays = np.array(order), drawn(70, seed, batch=4, kv_heads=4)
    y, state = attend(*arrays, window=16)
    heads = [x[:, :, order] for x in arrays[:5]] + [x[order] for x in arrays[5:]]
    close(attend(*heads, window=16)[0], y[:, :, order], ROUNDING)
    rows = [x[order] for x in arrays[:5]]
    close(attend(*rows, *arrays[5:], window=16)[1].kv, state.kv[order], ROUNDING)


def test_vmap_is_a_loop():
    pairs = zip(drawn(67), drawn(67, seed=1), strict=True)
    arrays = [jnp.stack(pair) for pair in pairs]
    run = functools.partial(attend, window=16)
    loop = [run(*(x[i] for x in arrays)) for i in range(2)]
    for x, *ys in zip(
        jax.tree.leaves(jax.vmap(run)(*arrays)), *map(jax.tree.leaves, loop), strict=True
    ):
        close(x, jnp.stack(ys), ROUNDING)


@pytest.mark.parametrize("length", [20, 150])
def test_inside_shard_map_the_factors_get_the_sum_of_their_gradients(length):
    mesh = jax.make_mesh((1,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    arrays, spec, shared = (
        drawn(length),
        jax.sharding.PartitionSpec("x"),
        jax.sharding.PartitionSpec(),
    )
    run = functools.partial(hybrid_attention, window=16)
    split = jax.shard_map(run, mesh=mesh, in_specs=(spec,) * 5 + (shared,) * 2, out_specs=spec)

    def gradients(run):
        return jax.jit(jax.grad(lambda *x: (run(*x) ** 2).sum(), argnums=tuple(range(7))))(*arrays)

    for x, expected in zip(gradients(split), gradients(run), strict=True):
        close(x, expected, ROUNDING)


def test_a_window_over_everything_is_softmax_and_no_window_is_linear_attention():
    q, k, v, phi_q, phi_k, g, linear = drawn(60, kv_heads=4)
    v = jnp.concatenate([v, v], axis=3)[..., :8]  # the softmax wants values of the keys' size
    softmax = jax.nn.dot_product_attention(q, k, v, is_causal=True)
    y, _ = attend(q, k, v, phi_q, phi_k, g, linear, kind="sliding", window=60)
    close(y, softmax, ROUNDING)
    y, _ = attend(q, k, v, phi_q, phi_k, 0 * g, linear, kind="sliding", window=1)
    weights = np.tril(np.einsum("blhf,bmhf->bhlm", phi_q, phi_k), -1)
    expected = np.einsum("bhlm,bmhp->blhp", weights, v)
    expected = expected[:, 1:] / weights.sum(-1).swapaxes(1, 2)[:, 1:, :, None]
    close(y[:, 1:], expected, ROUNDING)


def test_three_tokens_by_hand():
    # Sizes 1, terrace of 1: token 2 sees tokens 1 and 2 exactly, token 0 linearly. Its scores are
    # (ln 2, ln 1) so c = ln 2 and e = (1, 1/2); g = 4, l = 3, phi_q phi_k = 2:
    # (4 * 10 + 2 * 20 + 6 * 30) / (4 + 2 + 6) = 260 / 12.
    column = lambda *x: jnp.array(x)[None, :, None, None]  # noqa: E731
    y, _ = attend(
        column(0.0, 0.0, 1.0),
        column(9.0, np.log(2.0), 0.0),
        column(30.0, 10.0, 20.0),
        column(0.0, 0.0, 1.0),
        column(2.0, 9.0, 9.0),
        jnp.array([4.0]),
        jnp.array([3.0]),
        window=1,
    )
    np.testing.assert_allclose(y[0, 2, 0, 0], 260 / 12, rtol=1e-6)


def test_bfloat16_in_and_out_is_summed_in_float32():
    narrow = drawn(200, dtype=jnp.bfloat16)
    y, state = attend(*narrow)
    wide, _ = attend(*(x.astype(jnp.float32) for x in narrow))
    assert (y.dtype, state.kv.dtype, state.keys.dtype) == (jnp.bfloat16, jnp.float32, jnp.bfloat16)
    close(y, wide, 2**-8)  # one rounding, of the result


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"k": jnp.ones((2, 3, 2, 4))}, ValueError, r"k must have shape .* d = 8\); got"),
        ({"q": jnp.ones((2, 0, 4, 8))}, ValueError, "q has no l: its shape is"),
        ({"phi_k": jnp.ones((2, 3, 3, 6))}, ValueError, "phi_heads must divide h = 4; got 3"),
        ({"v": jnp.ones((2, 3, 2, 5), jnp.bfloat16)}, TypeError, "k float32, v bfloat16"),
        ({"window_factor": jnp.ones(2)}, ValueError, r"window_factor must have shape \(h = 4\)"),
        ({"window": 0}, ValueError, "window must be an integer of at least 1; got 0"),
        ({"kind": "block"}, ValueError, "kind must be one of terrace, sliding; got 'block'"),
        ({"eps": -1.0}, ValueError, "eps must be at least 0 and finite; got -1.0"),
        (
            {"scale": float("inf")},
            ValueError,
            "scale must be positive and finite, .*; got inf",
        ),
        ({"lengths": jnp.ones(2)}, TypeError, "lengths must be integers; got float32"),
        ({"lengths": [1, 2]}, TypeError, "lengths must be an array; got list"),
        ({"window": 2.5}, ValueError, "window must be an integer of at least 1; got 2.5"),
        ({"lengths": jnp.ones(3, int)}, ValueError, r"lengths must have shape \(b = 2\); got"),
        ({"implementation": "cuda"}, ValueError, "implementation must be one of .*; got 'cuda'"),
        (
            {"segment_ids": jnp.zeros((2, 3), int), "return_state": True},
            ValueError,
            "segment_ids cannot be combined with a state",
        ),
    ],
)
def test_bad_input_is_named(change, error, message):
    names = ("q", "k", "v", "phi_q", "phi_k", "window_factor", "linear_factor")
    with pytest.raises(error, match=message):
        hybrid_attention(**(dict(zip(names, drawn(3), strict=True)) | change))


def test_a_state_of_another_window_is_refused():
    arrays = drawn(3)
    _, state = attend(*arrays, window=4)
    with pytest.raises(ValueError, match=r"initial_state.keys must be float32\[2, 16, 2, 8\]; got"):
        hybrid_attention(*arrays, window=8, initial_state=state)
