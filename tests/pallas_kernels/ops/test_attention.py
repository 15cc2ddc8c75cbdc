"""Attention on XLA, the definition of the kernels: against one dense softmax, and its laws."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pallas_kernels import attention
from pallas_kernels.ops.attention import xla
from tests.pallas_kernels.ops.attention_by_definition import by_definition, drawn, error

# Sums of up to 300 float32 products, and their gradients: 1e-6 of the largest value.
FLOAT32 = 1e-5
# One query or key, one block of queries to the last row and one beyond, several.
LENGTHS = (1, 2, 63, 64, 65, 130, 300)


def both_passes(q, k, v, d_out, d_lse, ids=None, kv_ids=None, **fixed):
    """(out, lse, dq, dk, dv)"""

    def f(*x):
        return attention(*x, segment_ids=ids, kv_segment_ids=kv_ids, return_lse=True, **fixed)

    (out, lse), pull = jax.vjp(f, q, k, v)
    return out, lse, *pull((d_out, d_lse))


# Compiles in half the time; the laws hold for any order of sums.
run = jax.jit(
    both_passes,
    static_argnames=("causal", "window", "scale"),
    compiler_options={"xla_backend_optimization_level": 0},
)


def check(arrays, ids=(None, None), **fixed):
    expected = by_definition(*arrays, segment_ids=ids[0], kv_segment_ids=ids[1], **fixed)
    names = ("out", "lse", "dq", "dk", "dv")
    for name, x, theirs in zip(names, run(*arrays, *ids, **fixed), expected, strict=True):
        assert error(x, theirs) <= FLOAT32, name


@given(
    st.sampled_from(LENGTHS),
    st.sampled_from(LENGTHS),
    st.booleans(),
    st.sampled_from((None, 1, 40)),
)
@settings(max_examples=6)
def test_any_lengths_and_windows_are_the_definition(queries, keys, causal, window):
    """Where there are more queries than keys, the first queries of a causal mask see nothing."""
    check(drawn(1, queries, keys, 2, 1, 6), causal=causal, window=window)


@given(st.sampled_from((1, 65, 130)), st.integers(1, 50), st.booleans(), st.integers(0, 9))
@settings(max_examples=5)
def test_segments_are_the_definition(length, longest, causal, seed):
    """Of any lengths, in any order of numbers, with some that only one side has."""
    arrays, rng = drawn(2, length, length, 2, 2, 6, seed=seed), np.random.default_rng(seed)
    starts = rng.random((2, length)) < 1 / longest
    ids = (np.cumsum(starts, 1) * 7 % 5).astype(np.int32)
    check(arrays, (ids, np.where(ids == 3, -1, ids)), causal=causal)


@pytest.mark.parametrize("window", [None, 40])
@pytest.mark.parametrize("placed", [False, True])
def test_a_long_block_is_read_in_pieces(monkeypatch, window, placed):
    """Whole pieces and a shorter one; with positions all queries are one block."""
    monkeypatch.setattr(xla, "_MOST", 24)
    arrays = drawn(2, 130, 130, 2, 1, 6)
    ids = (np.arange(130) // 70)[None].repeat(2, 0)
    place = jnp.arange(130)[None].repeat(2, 0) if placed else None
    found = jax.jit(functools.partial(both_passes, causal=True, window=window, positions=place))
    expected = by_definition(*arrays, segment_ids=ids, causal=True, window=window)
    names = ("out", "lse", "dq", "dk", "dv")
    for name, x, theirs in zip(names, found(*arrays, ids, ids), expected, strict=True):
        assert error(x, theirs) <= FLOAT32, name


@pytest.mark.parametrize("kv_heads", [1, 2, 6])
def test_query_heads_share_the_heads_of_the_keys_in_order(kv_heads):
    q, k, v, *pulls = drawn(2, 9, 9, 6, kv_heads, 4)
    shared = run(q, k, v, *pulls, causal=True)
    k, v = (jnp.repeat(x, 6 // kv_heads, axis=2) for x in (k, v))
    apart = run(q, k, v, *pulls, causal=True)
    for x, expected in zip(shared[:3], apart[:3], strict=True):
        assert error(x, expected) <= FLOAT32


def test_values_wider_than_queries_and_a_scale():
    check(drawn(2, 9, 70, 2, 2, 4, 10), causal=True, scale=0.2)


def test_rows_without_a_key_read_nothing_and_pull_on_nothing():
    """Three queries come before the first key: 0, -inf, and gradients of 0, not NaN."""
    q, k, v, d_out, d_lse = drawn(1, 5, 2, 2, 1, 4)
    out, lse, dq, *_ = run(q, k, v, d_out, jnp.full_like(d_lse, jnp.nan), causal=True)
    assert np.isneginf(lse[:, :3]).all()
    assert np.isfinite(lse[:, 3:]).all()
    np.testing.assert_array_equal(out[:, :3], 0)
    np.testing.assert_array_equal(dq[:, :3], 0)


def test_padding_of_another_segment_changes_no_bit_of_the_output():
    q, k, v, *_ = drawn(2, 9, 9, 2, 1, 4)
    wide = lambda x: jnp.pad(x, ((0, 0), (0, 3), (0, 0), (0, 0)), constant_values=5)  # noqa: E731
    ids = np.where(np.arange(12) < 9, 0, -1).astype(np.int32)[None].repeat(2, 0)
    call = jax.jit(attention, static_argnames="causal")
    padded = call(wide(q), wide(k), wide(v), segment_ids=ids, causal=True)[:, :9]
    # Sums of 12 terms instead of 9, three of them 0: the order may differ.
    np.testing.assert_allclose(padded, call(q, k, v, causal=True), rtol=0, atol=1e-6)


def test_batch_and_heads_may_be_permuted():
    arrays = drawn(3, 9, 9, 4, 2, 4)
    rows, heads = np.array([2, 0, 1]), {4: np.array([2, 3, 0, 1]), 2: np.array([1, 0])}
    mixed = run(*(x[rows][:, :, heads[x.shape[2]]] for x in arrays), causal=True)
    for x, y in zip(run(*arrays, causal=True), mixed, strict=True):
        np.testing.assert_array_equal(x[rows][:, :, heads[x.shape[2]]], y)


def test_a_window_of_the_whole_length_is_none():
    arrays = drawn(1, 70, 70, 1, 1, 4)
    for x, y in zip(run(*arrays, window=70), run(*arrays), strict=True):
        assert error(x, y) <= FLOAT32


def test_vmap_is_a_loop():
    arrays = drawn(6, 9, 9, 2, 1, 4)
    stacked = [x.reshape(2, 3, *x.shape[1:]) for x in arrays]
    mapped = jax.jit(jax.vmap(functools.partial(both_passes, causal=True)))(*stacked)
    for x, y in zip(run(*arrays, causal=True), mapped, strict=True):
        assert error(y.reshape(x.shape), x) <= 1e-6  # the same sums in another order


def test_decoding_by_positions_is_reading_at_once():
    """Keys lie in any order in a cache; places say who sees whom."""
    q, k, v, *_ = drawn(2, 12, 12, 2, 1, 4)
    order = np.random.default_rng(0).permutation(12)
    places = np.arange(12, dtype=np.int32)[None].repeat(2, 0)
    call = jax.jit(functools.partial(attention, causal=True, window=7))
    whole = call(q, k, v)
    steps = call(
        q[:, 8:],
        k[:, order],
        v[:, order],
        positions=places[:, 8:],
        kv_positions=places[:, order],
    )
    np.testing.assert_allclose(steps, whole[:, 8:], rtol=0, atol=1e-6)


def test_statistics_are_at_least_float32():
    half = [x.astype(jnp.bfloat16) for x in drawn(1, 9, 9, 2, 1, 4)[:3]]
    out, lse = jax.jit(lambda *x: attention(*x, return_lse=True))(*half)
    assert (out.dtype, lse.dtype) == (jnp.bfloat16, jnp.float32)
    with jax.enable_x64(True):
        wide = [jnp.asarray(np.asarray(x, np.float64)) for x in half]
        out, lse = jax.jit(lambda *x: attention(*x, return_lse=True))(*wide)
        assert (out.dtype, lse.dtype) == (jnp.float64, jnp.float64)
        # float64 sums of nine terms.
        assert error(out, by_definition(*wide)[0]) <= 1e-14


def test_inside_shard_map_a_shared_array_gets_the_sum_of_its_gradients():
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spec, shared = jax.P("data"), jax.P()
    q, k, v, d_out, _ = drawn(2, 9, 9, 2, 1, 4)

    def pulled(f):
        return jax.jit(lambda q, k, v: jax.vjp(f, q, k, v)[1](d_out))(q, k[:1], v)

    def alone(q, k, v):
        return attention(q, jnp.concatenate([k, k]), v, causal=True)

    split = jax.shard_map(alone, mesh=mesh, in_specs=(spec, shared, spec), out_specs=spec)
    for x, expected in zip(pulled(split), pulled(alone), strict=True):
        assert error(x, expected) <= 1e-6
