"""The tile ops: the same results from the Mosaic interpreter, from plain values, and by hand.

One kernel computes them all, because it is tracing that takes time. That the ops also lower for a
Hopper GPU needs no GPU and no CUDA to see.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels._compat import H100_MESH, races_found
from pallas_kernels.pipeline import Kernel
from pallas_kernels.tiles import UNSEEN, Tile, Tiles

N = 64
SHAPE = (N, N)
BF16 = jnp.bfloat16


def ops(t, a, b, x):
    """Every op once; `a` and `b` may be references, `x` is a float32 tile."""
    vector = t.row_sum(x)
    return {
        "ab": t.mma(None, a, b),
        "abt": t.mma(None, a, b, trans_b=True),
        "atb": t.mma(None, a, b, trans_a=True),
        "atbt": t.mma(None, a, b, trans_a=True, trans_b=True),
        "added": t.mma(x, a, b),
        "registers": t.mma(x, x.astype(BF16), b, trans_b=True),
        "row_max": t.across(t.row_max(x), SHAPE),
        "row_sum": t.across(vector * t.full_column(N, 2.0), SHAPE),
        "col_max": t.down(t.col_max(x), SHAPE),
        "col_sum": t.down(t.col_sum(x) * t.full_row(N, 3.0), SHAPE),
        "distance": t.distance(SHAPE, 5).astype(jnp.float32),
        "causal": t.causal(x, shift=-3, other=7.0),
        "window": t.window(x, 4, shift=2, other=7.0),
        "where": t.where(t.distance(SHAPE) == 0, x),
        "full": t.full(SHAPE, 1.5) + t.full(SHAPE),
    }


NAMES = tuple(
    jax.eval_shape(lambda a, x: ops(Tiles("triton"), a, a, x), jnp.ones(SHAPE), jnp.ones(SHAPE))
)


def by_kernel(a, b, v, *, interpret):
    """The ops on tiles that were copied to shared memory, and a vector read both ways."""
    out = {name: jax.ShapeDtypeStruct(SHAPE, jnp.float32) for name in (*NAMES, "column", "row")}

    def finish(task, carry):
        t, s = task.t, task.smem
        results = ops(t, s.a, s.b, t.load(s.a).astype(jnp.float32))
        results["column"] = t.across(t.load_column(s.v), SHAPE)
        results["row"] = t.down(t.load_row(s.v), SHAPE)
        for name, value in results.items():
            task.store(y=(value, getattr(task.gmem, name)))

    kernel = Kernel(
        grid={"all": 1},
        out=out,
        ring={"a": Tile(SHAPE, BF16)},
        loops=lambda task: ((0, 1),),
        load=lambda task, i: {"a": task.gmem.a},
        setup=lambda task: (),
        compute=lambda task, stage, carry, i: carry,
        finish=finish,
        fetched={"a": Tile(SHAPE, BF16), "b": Tile(SHAPE, BF16), "v": Tile((N,), jnp.float32)},
        fetch=lambda task: {name: getattr(task.gmem, name) for name in "abv"},
        scratch={"y": Tile(SHAPE, jnp.float32)},
        consumers=1,
        stages=1,
        interpret=interpret,
    )
    return kernel(a=a, b=b, v=v)


@functools.cache
def inputs():
    rng = np.random.default_rng(0)
    a, b = (jnp.asarray(rng.normal(size=SHAPE), BF16) for _ in range(2))
    return a, b, jnp.asarray(rng.normal(size=N), jnp.float32)


def expected():
    a, b, v = (np.asarray(x, np.float64) for x in inputs())
    i, j = np.indices(SHAPE)
    return {
        "ab": a @ b,
        "abt": a @ b.T,
        "atb": a.T @ b,
        "atbt": a.T @ b.T,
        "added": a + a @ b,
        "registers": a + a @ b.T,
        "row_max": np.broadcast_to(a.max(1)[:, None], SHAPE),
        "row_sum": np.broadcast_to(2 * a.sum(1)[:, None], SHAPE),
        "col_max": np.broadcast_to(a.max(0)[None], SHAPE),
        "col_sum": np.broadcast_to(3 * a.sum(0)[None], SHAPE),
        "distance": i + 5 - j,
        "causal": np.where(i - 3 >= j, a, 7.0),
        "window": np.where(i + 2 - j < 4, a, 7.0),
        "where": np.where(i == j, a, UNSEEN),
        "full": np.full(SHAPE, 1.5),
        "column": np.broadcast_to(v[:, None], SHAPE),
        "row": np.broadcast_to(v[None], SHAPE),
    }


@pytest.fixture(scope="module")
def interpreted():
    results = by_kernel(*inputs(), interpret=True)
    assert not races_found()
    return results


@pytest.mark.parametrize("name", [*NAMES, "column", "row"])
def test_the_interpreter_computes_what_the_name_says(interpreted, name):
    # Products of bfloat16 numbers are exact in float32: only the order of sums differs.
    np.testing.assert_allclose(interpreted[name], expected()[name], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_plain_values_give_the_same(name):
    a, b, _ = inputs()
    result = ops(Tiles("triton"), a, b, a.astype(jnp.float32))[name]
    np.testing.assert_allclose(result, expected()[name], rtol=1e-5, atol=1e-4)


def test_the_ops_lower_for_a_hopper_gpu():
    with jax.sharding.use_abstract_mesh(H100_MESH):
        traced = jax.jit(functools.partial(by_kernel, interpret=False)).trace(*inputs())
        text = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert "mosaic_gpu" in text


@pytest.mark.parametrize(
    ("shape", "dtype", "swizzle"),
    [
        ((8, 64), BF16, 128),
        ((8, 32), BF16, 64),
        ((8, 16), BF16, 32),
        ((8, 96), jnp.float8_e4m3fn, 32),
    ],
)
def test_the_swizzle_is_the_widest_that_divides_a_row(shape, dtype, swizzle):
    tiling, swizzled = Tile(shape, dtype)._transforms()
    assert swizzled.swizzle == swizzle
    assert tiling.tiling == (8, swizzle // jnp.dtype(dtype).itemsize)


def test_a_tile_too_narrow_for_any_swizzle_is_refused():
    with pytest.raises(ValueError, match="rows must be a multiple of 32 bytes; got 8 x 2 bytes"):
        Tile((64, 8), BF16).allocate()
