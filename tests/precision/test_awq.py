"""AWQ and rounding to nearest: what must hold for any kernel and inputs, and failures."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jlab.nn.formats import BlockFormat, FloatFormat, IntFormat, parse_format
from jlab.nn.quant import fake_quant
from jlab.nn.quantized import dequantize
from jlab.precision import add_rows, awq, moments_init, output_errors, rtn
from tests.precision.kernels import FORMATS, INPUTS, OUTPUTS, drawn, output_error, seeds

FMT = IntFormat(3, "awq_asym")


def loud(seed: int, **sizes):
    """As `drawn`, with a few inputs far greater than the others."""
    kernel, x = drawn(seed, **sizes)
    return kernel, x.at[:, :2].multiply(20.0)


@pytest.mark.parametrize(
    "name", ["int4", "int2:asym", "int5:awq_asym", "e2m1", "fp8", "mxfp4", "nvfp4"]
)
@pytest.mark.parametrize("size", [None, 8])
def test_rounding_to_nearest_is_what_fake_quantisation_computes(name, size):
    """A grid whose ends are ties is left out; steps are divided by data or by a constant."""
    fmt, (kernel, _) = parse_format(name), drawn(0, inputs=40)
    if isinstance(fmt, BlockFormat) and size is not None:
        pytest.skip("a block format has a size of its own")
    rounded, q, found = rtn(kernel, None, fmt, size)
    np.testing.assert_array_equal(dequantize(q), rounded)
    np.testing.assert_allclose(rounded, fake_quant(kernel, fmt, 0, group_size=size), rtol=1e-6)
    assert found == {}
    assert q.fmt == (fmt.element if isinstance(fmt, BlockFormat) else fmt)


@given(seeds)
def test_the_scales_found_are_no_worse_than_none(seed):
    kernel, x = loud(seed)
    rounded, _, found = awq(kernel, x, FMT, clip=False)
    losses = np.asarray(found["losses"])
    np.testing.assert_allclose(found["ratio"], np.argmin(losses) / 20, rtol=1e-6)
    nearest, _, _ = awq(kernel, x, FMT, clip=False, scale=False)
    np.testing.assert_allclose(losses[0], output_error(x, kernel, nearest), rtol=1e-4)
    np.testing.assert_allclose(losses.min(), output_error(x, kernel, rounded), rtol=1e-4)
    assert losses.min() < losses[0], "there are loud inputs"
    scales = np.asarray(found["scales"])
    np.testing.assert_allclose(scales.max() * scales.min(), 1, rtol=1e-5)


@given(seeds, st.sampled_from([None, 8]))
def test_the_ranges_found_are_no_worse_than_whole_ones(seed, size):
    """The search looks at each group's part of an output, so the law is of those."""
    kernel, x = drawn(seed)
    groups = INPUTS // (size or INPUTS)

    def errors(clip):
        rounded, _, found = awq(kernel, x, FMT, size, scale=False, clip=clip)
        change = (rounded - kernel).reshape(groups, -1, OUTPUTS)
        parts = jnp.einsum("tgk,gko->tgo", x.reshape(len(x), groups, -1), change)
        return np.asarray(jnp.square(parts).sum(0)), found["clip"]

    cut, limits = errors(True)
    whole, widest = errors(False)
    assert (cut <= whole * (1 + 1e-5)).all()
    assert bool((limits <= widest).all())
    shares = np.asarray(limits / widest) * 20
    np.testing.assert_allclose(shares, np.round(shares), atol=1e-4)
    assert shares.min() > 10.9


def test_only_some_outputs_are_cut():
    kernel, x = drawn(1)
    some = np.arange(OUTPUTS) % 2 == 0
    _, _, found = awq(kernel, x, FMT, scale=False, clip=some)
    _, _, whole = awq(kernel, x, FMT, scale=False, clip=False)
    _, _, cut = awq(kernel, x, FMT, scale=False)
    np.testing.assert_array_equal(found["clip"], np.where(some, cut["clip"], whole["clip"]))
    assert bool((cut["clip"] < whole["clip"]).any())


@given(seeds, st.sampled_from([None, 4]))
def test_the_codes_are_those_of_the_scaled_kernel(seed, size):
    kernel, x = loud(seed)
    rounded, q, found = awq(kernel, x, FMT, size)
    scales = found["scales"][:, None]
    np.testing.assert_array_equal(dequantize(q) / scales, rounded)
    # Divided inputs read the scaled kernel as the inputs the other.
    np.testing.assert_allclose((x / scales.T) @ dequantize(q), x @ rounded, rtol=1e-3, atol=1e-3)
    bound = jnp.repeat(found["clip"], len(kernel) // len(found["clip"]), axis=0)
    assert bool((jnp.abs(dequantize(q)) <= bound * (1 + 1e-5) + q.step[q.group] / 2).all())


def test_maps_side_by_side_share_their_scales():
    """The search over both is the one whose error is the sum: by a function of the caller's too."""
    kernel, x = loud(2)
    moments = add_rows(moments_init(INPUTS), x)

    def whole(rounded):
        return output_errors(rounded - kernel, moments.second).sum() / (len(x) * OUTPUTS)

    found = [awq(kernel, x, FMT, error=error)[2] for error in (None, whole)]
    np.testing.assert_allclose(found[0]["losses"], found[1]["losses"], rtol=1e-5)

    def first_half(rounded):
        change = (rounded - kernel)[:, : OUTPUTS // 2]
        return output_errors(change, moments.second).sum() / (len(x) * OUTPUTS // 2)

    half, _, alone = awq(kernel[:, : OUTPUTS // 2], x, FMT)
    _, _, told = awq(kernel, x, FMT, error=first_half)
    np.testing.assert_allclose(told["losses"], alone["losses"], rtol=1e-5)
    np.testing.assert_allclose(awq(kernel, x, FMT, error=first_half)[0][:, : OUTPUTS // 2], half)


@given(seeds)
def test_the_order_of_inputs_is_of_no_account_without_groups(seed):
    with jax.enable_x64(True):
        kernel, x = drawn(seed, dtype="float64")
        order = np.random.default_rng(seed).permutation(INPUTS)
        rounded, _, found = awq(kernel, x, FMT)
        again, _, permuted = awq(kernel[order], x[:, order], FMT)
        np.testing.assert_allclose(permuted["scales"], found["scales"][order], rtol=1e-12)
        np.testing.assert_allclose(again, rounded[order], atol=1e-9)


def test_zero_points_of_cut_ranges_do_not_hang_on_the_last_bit():
    """A kernel cut at both ends, in float32 and in float64: the codes agree."""
    codes = []
    for wide in (False, True):
        with jax.enable_x64(wide):
            dtype = "float64" if wide else "float32"
            rng = np.random.default_rng(0)
            kernel = jnp.asarray(rng.normal(size=(64, 200)).astype(np.float32), dtype)
            cut = jnp.clip(kernel, -1, 1)
            _, q, _ = awq(cut, jnp.eye(64, dtype=dtype), FMT, scale=False, clip=False)
            codes.append(np.asarray(q.zero))
    np.testing.assert_array_equal(*codes)
    assert set(codes[0].ravel()) == {4}, "3.5 is rounded upwards"


@pytest.mark.parametrize("fmt", FORMATS, ids=str)
@pytest.mark.parametrize("value", [0.0, 2.5])
def test_constant_kernels_and_silent_inputs(fmt, value):
    _, x = drawn(3)
    for rows in (x, x.at[:, 3:].set(0), jnp.zeros_like(x)):
        rounded, _, found = awq(jnp.full((INPUTS, 3), value), rows, fmt, 4)
        assert bool(jnp.isfinite(rounded).all())
        assert bool(jnp.isfinite(found["scales"]).all())
        if value == 0:
            np.testing.assert_array_equal(rounded, 0)


def test_types_are_kept():
    kernel, x = drawn(4)
    rounded, q, _ = awq(kernel.astype(jnp.bfloat16), x.astype(jnp.bfloat16), IntFormat(4))
    assert (rounded.dtype, q.step.dtype, q.codes.dtype) == (jnp.bfloat16, jnp.float32, jnp.int8)


WRONG = [
    (awq, {"weights": jnp.ones((2, 8, 4))}, r"weights must have shape \[inputs, outputs\]"),
    (awq, {"weights": jnp.full((8, 4), jnp.inf)}, "weights must be finite"),
    (awq, {"calibration": jnp.ones((0, 8))}, "at least one row; got none"),
    (awq, {"calibration": jnp.ones((3, 9))}, r"must have shape \[rows, 8\]; got \(3, 9\)"),
    (awq, {"group_size": -1}, "group_size must divide the 8 inputs, or be None.*; got -1"),
    (rtn, {"group_size": 5}, "group_size must divide the 8 inputs, or be None.*; got 5"),
    (rtn, {"weights": jnp.ones((0, 4))}, r"weights must have shape \[inputs, outputs\]"),
    (rtn, {"fmt": parse_format("mxfp4"), "group_size": 4}, "group_size must be None where fmt is"),
    (
        rtn,
        {"fmt": parse_format("nvfp4"), "search": True},
        "search must be false where fmt is nvfp4",
    ),
]


@pytest.mark.parametrize(("method", "changes", "says"), WRONG)
def test_wrong_input_is_one_line(method, changes, says):
    given = {"weights": jnp.ones((8, 4)), "calibration": jnp.ones((5, 8)), "fmt": IntFormat(4)}
    with pytest.raises(ValueError, match=says) as caught:
        method(**given | changes)
    assert "\n" not in str(caught.value)


def test_blocks_are_for_rounding_to_nearest():
    with pytest.raises(
        TypeError, match="fmt must be one of IntFormat, FloatFormat; got BlockFormat"
    ):
        awq(jnp.ones((8, 4)), jnp.ones((5, 8)), BlockFormat(FloatFormat(2, 1)))
