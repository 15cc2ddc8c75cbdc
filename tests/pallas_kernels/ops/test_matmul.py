"""The product: reference numbers, the epilogue, gradients, vmap, 8-bit floats, bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels import _compat
from pallas_kernels.ops.matmul import matmul, matmul_fp8, quantize_fp8

# bfloat16 rounds to 2**-9 of a value; results are rounded once and sums of a few hundred products
# of rounded numbers lie within a few times that of the largest one.
BF16 = 1e-2
KERNEL = {"implementation": "mosaic_gpu", "interpret": True}


def drawn(*shapes, dtype=jnp.float32, seed=0):
    rng = np.random.default_rng(seed)
    return [jnp.asarray(rng.normal(size=s), dtype) for s in shapes]


def close(x, expected, tolerance):
    x, expected = np.asarray(x, np.float64), np.asarray(expected, np.float64)
    assert np.abs(x - expected).max() <= tolerance * np.abs(expected).max()


def fused_by_hand(a, b, bias, gate, residual):
    pre = np.asarray(a, np.float64) @ np.asarray(b, np.float64) + np.asarray(bias, np.float64)
    gelu = 0.5 * pre * (1 + np.tanh(np.sqrt(2 / np.pi) * (pre + 0.044715 * pre**3)))
    return np.asarray(gate, np.float64) * gelu + np.asarray(residual, np.float64)


def test_the_epilogue_is_applied_in_order():
    arrays = drawn((5, 7), (7, 3), (3,), (3,), (5, 3))
    a, b, bias, gate, residual = arrays
    y = matmul(a, b, bias=bias, activation="gelu", gate=gate, residual=residual)
    close(y, fused_by_hand(*arrays), 1e-5)


def test_the_kernel_is_the_definition_for_ragged_sizes_with_the_whole_epilogue():
    arrays = drawn((130, 70), (70, 90), (90,), (90,), (130, 90), dtype=jnp.bfloat16)
    a, b, bias, gate, residual = arrays
    y = matmul(a, b, bias=bias, activation="gelu", gate=gate, residual=residual, **KERNEL)
    assert y.shape == (130, 90)
    close(y, fused_by_hand(*arrays), BF16)
    assert not _compat.races_found()


@pytest.mark.slow
def test_gradients_of_the_kernel_are_those_of_the_definition():
    arrays = drawn((128, 64), (64, 64), (64,), (64,), (128, 64), dtype=jnp.bfloat16)
    dy = drawn((128, 64), dtype=jnp.bfloat16, seed=1)[0]

    def pulled(arrays, **settings):
        def f(a, b, bias, gate, residual):
            return matmul(
                a, b, bias=bias, activation="silu", gate=gate, residual=residual, **settings
            )

        return jax.vjp(f, *arrays)[1](dy.astype(arrays[0].dtype))

    wide = [x.astype(jnp.float32) for x in arrays]
    for mine, expected in zip(pulled(arrays, **KERNEL), pulled(wide), strict=True):
        assert mine.dtype == jnp.bfloat16
        close(mine, expected, BF16)


@pytest.mark.slow
def test_more_steps_than_stages_and_more_tasks_than_blocks():
    """Five stages' worth of steps in a ring of three, four tasks for three persistent blocks."""
    from pallas_kernels.ops.matmul import mosaic

    a, b = drawn((256, 320), (320, 128), dtype=jnp.bfloat16)
    config = mosaic.Config(columns=64, blocks=3, band=2)
    y, _ = mosaic.matmul(
        a, b, {}, activation=None, out_dtype=jnp.float32, config=config, interpret=True
    )
    close(y, np.asarray(a, np.float64) @ np.asarray(b, np.float64), 1e-6)
    assert not _compat.races_found()


@pytest.mark.slow
def test_vmap_of_the_kernel_equals_a_loop():
    a, b = drawn((2, 64, 64), (2, 64, 64), dtype=jnp.bfloat16)
    run = lambda x, y: matmul(x, y, **KERNEL)  # noqa: E731
    loop = jnp.stack([run(x, b[0]) for x in a])
    np.testing.assert_array_equal(jax.vmap(run, (0, None))(a, b[0]), loop)
    both = jnp.stack([run(x, y) for x, y in zip(a, b, strict=True)])
    np.testing.assert_array_equal(jax.vmap(run)(a, b), both)


def test_float64_is_summed_in_float64():
    with jax.enable_x64(True):
        a, b = (x.astype(jnp.float64) for x in drawn((9, 300), (300, 4)))
        close(matmul(a, b), np.asarray(a) @ np.asarray(b), 1e-14)


@pytest.mark.parametrize("axis", [0, 1])
def test_quantized_factors_fill_their_range_and_rows_of_zeros_have_scale_one(axis):
    (x,) = drawn((6, 8))
    x = x.at[2].set(0.0) if axis == 1 else x.at[:, 2].set(0.0)
    x8, scale = quantize_fp8(x, axis)
    assert x8.dtype == jnp.float8_e4m3fn
    assert scale[2] == 1.0
    top = jnp.abs(x8.astype(jnp.float32)).max(axis)
    np.testing.assert_array_equal(jnp.delete(top, 2), 448.0)
    # e4m3 has three bits after the point: half a unit is 2**-4 of a normal number.
    back = x8.astype(jnp.float32) * jnp.expand_dims(scale, axis)
    assert (jnp.abs(back - x) <= jnp.abs(x) / 16 + jnp.expand_dims(scale, axis) * 2**-10).all()


def test_a_row_too_small_for_a_scale_stays_finite():
    x8, scale = quantize_fp8(jnp.array([[2e-36, 1e-36], [1e-45, 0.0]]), 1)
    assert np.isfinite(np.asarray(x8, np.float32)).all()
    assert (scale > 0).all()


@pytest.mark.parametrize(
    ("x", "axis", "error", "message"),
    [
        (jnp.ones((2, 3)), 2, ValueError, "axis must be 0 or 1; got 2"),
        (jnp.ones((1, 2, 3)), 1, ValueError, r"x must have shape \(m, k\); got \(1, 2, 3\)"),
        (jnp.ones((2, 3), int), 1, TypeError, "x must be of a floating type .*; got int32"),
    ],
)
def test_what_cannot_be_quantized_is_named(x, axis, error, message):
    with pytest.raises(error, match=message):
        quantize_fp8(x, axis)


def test_the_8_bit_kernel_is_the_definition():
    a, b = drawn((128, 128), (128, 64))
    (a8, row), (b8, column) = quantize_fp8(a, 1), quantize_fp8(b, 0)
    exact = matmul_fp8(a8, b8, row, column, out_dtype=jnp.float32)
    mine = matmul_fp8(a8, b8, row, column, out_dtype=jnp.float32, **KERNEL)
    close(mine, exact, 1e-6)  # products of 8-bit numbers are exact; only the order of sums differs
    close(exact, a @ b, 0.05)  # two factors, each rounded to 1/16 at most


def test_gradients_reach_the_8_bit_scales():
    (a8, row), (b8, column) = (
        quantize_fp8(x, i) for x, i in zip(drawn((4, 6), (6, 5)), (1, 0), strict=True)
    )

    def total(row, column):
        return matmul_fp8(a8, b8, row, column, out_dtype=jnp.float32).sum()

    # The result is linear in each scale: scale times gradient is the row's own sum.
    y = matmul_fp8(a8, b8, row, column, out_dtype=jnp.float32)
    d_row, d_column = jax.grad(total, (0, 1))(row, column)
    np.testing.assert_allclose(d_row * row, y.sum(1), rtol=1e-5)
    np.testing.assert_allclose(d_column * column, y.sum(0), rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"b": jnp.ones((4, 2))}, ValueError, r"matmul: b must have shape \(k = 3, n\); got"),
        ({"a": jnp.ones((2, 3, 1))}, ValueError, r"matmul: a must have shape \(m, k\); got"),
        ({"a": jnp.ones((0, 3))}, ValueError, r"matmul: a has no m: its shape is \(0, 3\)"),
        ({"bias": jnp.ones(3)}, ValueError, r"matmul: bias must have shape \(n = 2\); got \(3,\)"),
        ({"b": jnp.ones((3, 2), jnp.bfloat16)}, TypeError, "a float32, b bfloat16"),
        ({"activation": "tanh"}, ValueError, "None or one of gelu, silu, relu; got 'tanh'"),
        ({"implementation": "cuda"}, ValueError, "one of mosaic_gpu, xla; got 'cuda'"),
        ({"implementation": "mosaic_gpu"}, NotImplementedError, "float16; got float32"),
    ],
)
def test_bad_input_is_named(change, error, message):
    arrays = {"a": jnp.ones((2, 3)), "b": jnp.ones((3, 2))} | change
    with pytest.raises(error, match=message):
        matmul(**arrays)


def test_factors_that_are_not_8_bit_are_named():
    a, row = quantize_fp8(jnp.ones((2, 3)), 1)
    with pytest.raises(TypeError, match="b must be float8_e4m3fn; got float32"):
        matmul_fp8(a, jnp.ones((3, 2)), row, row)
