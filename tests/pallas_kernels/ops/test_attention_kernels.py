"""The attention kernels in their interpreters: against the definition, races, vmap, shard_map."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels import attention, races_found, reset_interpreter
from tests.pallas_kernels.ops.attention_by_definition import by_definition, drawn, error

HOPPER = {"implementation": "mosaic_gpu", "interpret": True}
TRITON = {"implementation": "triton", "interpret": True}
FLOAT32 = 1e-5  # of the largest value: float32 sums of up to 300 products reach 1e-6
BFLOAT16 = 2e-2  # weights and results are rounded to 2^-9, scores and sums are not


@pytest.fixture(autouse=True)
def _fresh_interpreter():
    yield
    reset_interpreter()


def documents(length):
    return np.arange(length, dtype=np.int32)[None] // 90


# batch, queries, keys, heads, kv_heads, dim, dim_v: one tile or two, then the rest of the setting.
CASES = {
    # Padded everywhere, heads of 80 and 48; the first 30 queries see nothing.
    "ragged, more queries than keys": ((1, 70, 40, 2, 1, 80, 48), {"causal": True}),
    # Tiles before and after the window are skipped, the last one is padded.
    "window without order": ((1, 70, 300, 1, 1, 64), {"window": 50, "scale": 0.3}),
    # Blocks of other documents are skipped, more are cut by the window.
    "documents and a window": (
        (1, 300, 300, 1, 1, 64),
        {"causal": True, "window": 60, "segment_ids": documents(300)},
    ),
    # More steps than stages: the ring is filled again.
    "a ring that wraps": ((1, 64, 700, 1, 1, 128), {}),
    # Blocks that meet no key of their segment end without a step.
    "segments that never meet": (
        (1, 40, 40, 1, 1, 64),
        {"segment_ids": documents(40), "kv_segment_ids": documents(40) + 7},
    ),
}
SIZES_AND_SETTINGS = pytest.mark.parametrize("case", CASES)


def both_passes(arrays, implementation, **fixed):
    @jax.jit
    def run(q, k, v, d_out, d_lse):
        def f(*x):
            return attention(*x, return_lse=True, **fixed, **implementation)

        (out, lse), pull = jax.vjp(f, q, k, v)
        return out, lse, *pull((d_out, d_lse))

    return run(*arrays)


@SIZES_AND_SETTINGS
def test_triton_is_the_definition(case):
    sizes, fixed = CASES[case]
    arrays = drawn(*sizes)
    expected = by_definition(*arrays, **fixed)
    for x, theirs in zip(both_passes(arrays, TRITON, **fixed), expected, strict=True):
        assert error(x, theirs) <= FLOAT32


@pytest.mark.slow
@SIZES_AND_SETTINGS
def test_hopper_is_the_definition(case):
    sizes, fixed = CASES[case]
    arrays = drawn(*sizes, dtype=jnp.bfloat16)
    results, expected = both_passes(arrays, HOPPER, **fixed), by_definition(*arrays, **fixed)
    assert not races_found()
    assert error(results[1], expected[1]) <= FLOAT32
    for x, theirs in zip(results, expected, strict=True):
        assert error(x, theirs) <= BFLOAT16


@pytest.mark.slow
def test_hopper_takes_float16_and_folds_vmap_into_the_batch():
    """Row by row the same numbers in the same order: not one bit differs."""
    arrays = drawn(2, 20, 20, 1, 1, 16, dtype=jnp.float16)

    def run(q, k, v, d_out):
        return both_passes((q, k, v, d_out, arrays[4][:1]), HOPPER, causal=True)[::2]

    whole = both_passes((*arrays[:4], jnp.concatenate([arrays[4][:1]] * 2)), HOPPER, causal=True)
    mapped = jax.vmap(run)(*(x[:, None] for x in arrays[:4]))
    assert not races_found()
    for x, y in zip(whole[::2], mapped, strict=True):
        assert x.dtype == jnp.float16
        np.testing.assert_array_equal(x, y[:, 0])
    assert error(whole[0], by_definition(*arrays, causal=True)[0]) <= BFLOAT16


@pytest.mark.parametrize(
    "implementation",
    [TRITON, pytest.param(HOPPER, marks=pytest.mark.slow)],
    ids=["triton", "hopper"],
)
def test_inside_shard_map_a_shared_array_gets_the_sum_of_its_gradients(implementation):
    """On one device: the interpreter of Hopper kernels knows no second one at the same time."""
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spec, shared = jax.P("data"), jax.P()
    q, k, v, d_out, _ = drawn(2, 20, 20, 1, 1, 16, dtype=jnp.bfloat16)

    def one(q, k, v):
        k = jnp.concatenate([k, k])
        return attention(q, k, v, causal=True, **implementation)

    split = jax.shard_map(one, mesh=mesh, in_specs=(spec, shared, spec), out_specs=spec)
    dq, dk, dv = jax.jit(lambda *x: jax.vjp(split, *x)[1](d_out))(q, k[:1], v)
    *_, all_dq, all_dk, all_dv = by_definition(
        q, jnp.concatenate([k[:1]] * 2), v, d_out, causal=True
    )
    expected = all_dq, all_dk.sum(0, keepdims=True), all_dv
    for x, theirs in zip((dq, dk, dv), expected, strict=True):
        assert error(x, theirs) <= BFLOAT16


def test_what_no_kernel_takes_falls_through_to_the_definition():
    """Without a choice: positions, wide heads, a machine without a GPU."""
    q, k, v, *_ = drawn(1, 3, 3, 1, 1, 130)
    expected = by_definition(q, k, v, causal=True)[0]
    places = jnp.arange(3)[None]
    call = jax.jit(functools.partial(attention, causal=True))
    assert error(call(q, k, v, positions=places), expected) <= FLOAT32
    with pytest.raises(NotImplementedError, match="no implementation takes these inputs"):
        attention(q, k, v, interpret=True)
    with pytest.raises(NotImplementedError, match="needs an NVIDIA GPU"):
        attention(*[q[..., :8].astype(jnp.bfloat16)] * 3, implementation="mosaic_gpu")
