"""GPTQ: what must hold for any kernel and inputs, by hand where it can be, and failures."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jlab.nn.formats import FloatFormat, IntFormat, parse_format
from jlab.nn.quantized import dequantize
from jlab.precision import Moments, add_rows, gptq, moments_init, rtn
from tests.precision.kernels import (
    FORMATS,
    INPUTS,
    OUTPUTS,
    WITHOUT_TIES,
    drawn,
    output_error,
    seeds,
)

SIZES = st.sampled_from([None, 4, 8])


@given(seeds, st.sampled_from([2, 3, 4, 8]))
def test_correlated_inputs_gain_on_average_over_outputs(seed, bits):
    """Rounding residuals r, uniform in a step, cost tr(H) / 12 on average when rounded to nearest,
    and the trace of the LDL factor D of H, which is never more, when errors are carried over.

    That is no law for a single output. Over 24 of them, with inputs that share half of their
    directions, the gain is far beyond chance, so the margin is none.
    """
    kernel, x = drawn(seed)
    fmt = IntFormat(bits, "asym")
    errors = [output_error(x, kernel, method(kernel, x, fmt)[0]) for method in (gptq, rtn)]
    assert errors[0] < errors[1]


@given(seeds)
def test_the_loss_is_bounded_where_nothing_is_cut(seed):
    """No residual is beyond half a step, so that the loss is at most step^2 / 8 times tr D."""
    with jax.enable_x64(True):
        kernel, x = drawn(seed, dtype="float64")
        kernel = kernel.at[0].set(20.0)  # the range, which nothing else comes near
        _, q, found = gptq(kernel, x, IntFormat(4), damping=0.01)
        hessian = np.asarray(2 / len(x) * x.T @ x)
        hessian = hessian + 0.01 * np.diag(hessian).mean() * np.eye(INPUTS)
        # D of H = A A^T with A upper: the squares of its diagonal.
        diagonal = np.diag(np.linalg.cholesky(hessian[::-1, ::-1])) ** 2
        assert found["loss"] <= (q.step**2).sum() / 8 * diagonal.sum() * (1 + 1e-12)


@pytest.mark.parametrize(
    ("block", "size", "act_order"), [(1, None, False), (5, None, True), (5, 4, True), (7, 8, False)]
)
def test_blocks_change_nothing_without_moving_groups(block, size, act_order):
    with jax.enable_x64(True):
        for seed in range(5):
            kernel, x = drawn(seed, dtype="float64")
            how = {"act_order": act_order, "static_groups": True}
            whole = gptq(kernel, x, IntFormat(3, "asym"), size, **how)[0]
            found = gptq(kernel, x, IntFormat(3, "asym"), size, block=block, **how)[0]
            np.testing.assert_allclose(found, whole, atol=1e-9)


@given(seeds, st.booleans())
def test_one_group_of_all_is_no_group(seed, act_order):
    with jax.enable_x64(True):
        kernel, x = drawn(seed, dtype="float64")
        fmt = IntFormat(3, "asym")
        alone, _, _ = gptq(kernel, x, fmt, act_order=act_order)
        whole, _, _ = gptq(kernel, x, fmt, INPUTS, act_order=act_order)
        np.testing.assert_allclose(alone, whole, atol=1e-9)


@given(seeds, st.booleans())
def test_with_act_order_the_order_of_the_inputs_is_of_no_account(seed, moving):
    with jax.enable_x64(True):
        kernel, x = drawn(seed, dtype="float64")
        order = np.random.default_rng(seed).permutation(INPUTS)
        how = {"act_order": True, "group_size": 4 if moving else None}
        whole = gptq(kernel, x, IntFormat(3), **how)[0]
        found = gptq(kernel[order], x[:, order], IntFormat(3), **how)[0]
        np.testing.assert_allclose(found, whole[order], atol=1e-9)


@given(seeds, SIZES, st.integers(-3, 3))
def test_a_kernel_times_a_power_of_two_has_the_same_codes(seed, size, power):
    kernel, x = drawn(seed)
    _, q, _ = gptq(kernel, x, IntFormat(4, "asym"), size)
    _, scaled, _ = gptq(kernel * 2.0**power, x, IntFormat(4, "asym"), size)
    np.testing.assert_array_equal(scaled.codes, q.codes)
    np.testing.assert_array_equal(scaled.step, q.step * 2.0**power)
    _, louder, _ = gptq(kernel, x * 2.0**power, IntFormat(4, "asym"), size)
    np.testing.assert_array_equal(louder.codes, q.codes)


@given(seeds, SIZES)
def test_outputs_do_not_see_one_another(seed, size):
    with jax.enable_x64(True):
        kernel, x = drawn(seed, dtype="float64")
        whole = gptq(kernel, x, IntFormat(3), size)[0]
        parts = [gptq(part, x, IntFormat(3), size)[0] for part in jnp.split(kernel, 2, axis=1)]
        np.testing.assert_allclose(jnp.concatenate(parts, axis=1), whole, atol=1e-9)


@pytest.mark.parametrize("fmt", WITHOUT_TIES, ids=str)
@pytest.mark.parametrize("size", [None, 4])
def test_inputs_without_correlation_leave_nothing_to_make_up_for(fmt, size):
    kernel, _ = drawn(0)
    rounded, q, _ = gptq(kernel, 3 * jnp.eye(INPUTS), fmt, size)
    nearest, plain, _ = rtn(kernel, None, fmt, size)
    np.testing.assert_array_equal(q.codes, plain.codes)
    np.testing.assert_allclose(rounded, nearest, rtol=1e-6)  # steps divided by data or a constant


@pytest.mark.parametrize(
    ("fmt", "size", "act_order", "static"),
    [
        (IntFormat(3, "awq_asym"), None, False, False),
        (IntFormat(4, "gptq_sym"), 4, False, False),
        (IntFormat(9), 4, True, False),
        (IntFormat(2, "full_sym"), 8, True, True),
        (FloatFormat(2, 1), 4, True, True),
    ],
)
def test_the_codes_stand_for_the_result(fmt, size, act_order, static):
    for seed in range(3):
        kernel, x = drawn(seed)
        how = {"act_order": act_order, "static_groups": static}
        rounded, q, _ = gptq(kernel, x, fmt, size, **how)
        np.testing.assert_array_equal(dequantize(q), rounded)
        groups = 1 if size is None else INPUTS // size
        assert q.step.shape == (groups, OUTPUTS)
        assert sorted(np.bincount(q.group)) == [INPUTS // groups] * groups
        assert (act_order and not static) == bool((np.diff(q.group) < 0).any())
        if isinstance(fmt, IntFormat):
            assert q.codes.min() >= fmt.lowest
            assert q.codes.max() <= fmt.highest
        else:
            assert set(np.abs(q.codes).ravel().tolist()) <= {0, 0.5, 1, 1.5, 2, 3, 4, 6}


def test_two_inputs_by_hand():
    """Inputs 1 and 2 have products [[1, 1/2], [1/2, 1]]; input 0 is apart, and makes the step 1.

    Input 1 is off by 0.4 when 0.4 becomes 0; half of that, what it shares with input 2, moves 2.4
    to 2.6, which becomes 3. The nearest to 2.4 is 2.
    """
    x = jnp.array([[0.0, 1.0, 0.5], [0.0, 0.0, np.sqrt(0.75)], [1.0, 0.0, 0.0]])
    kernel = jnp.array([[7.0, -7.0], [0.4, -0.4], [2.4, -2.4]])
    rounded, q, found = gptq(kernel, x, IntFormat(4), damping=1e-6)
    np.testing.assert_array_equal(q.codes, [[7, -7], [0, 0], [3, -3]])
    np.testing.assert_array_equal(rounded, [[7.0, -7.0], [0.0, 0.0], [3.0, -3.0]])
    nearest, _, _ = rtn(kernel, None, IntFormat(4))
    np.testing.assert_array_equal(nearest[2], [2.0, -2.0])
    # Of each output half of 0.4^2 D_1 + 0.4^2 D_2, where H = 2/3 of the products: D = 2/3 (3/4, 1).
    loss = 2 * 0.16 / 2 * 2 / 3 * (3 / 4 + 1)
    np.testing.assert_allclose(found["loss"], loss, rtol=1e-5)


@pytest.mark.parametrize("size", [None, 4])
def test_inputs_that_are_always_zero_do_not_matter(size):
    kernel, x = drawn(3)
    dead = np.array([0, 5, 15])
    x = x.at[:, dead].set(0)
    rounded, _, found = gptq(kernel, x, IntFormat(4, "asym"), size)
    assert not found["fallback"]
    np.testing.assert_array_equal(rounded[dead], 0)
    nearest, _, _ = rtn(kernel, None, IntFormat(4, "asym"), size)
    assert output_error(x, kernel, rounded) < output_error(x, kernel, nearest)


def test_fewer_rows_than_inputs():
    kernel, x = drawn(4, rows=3)
    rounded, _, found = gptq(kernel, x, IntFormat(3))
    assert not found["fallback"]
    assert output_error(x, kernel, rounded) < output_error(
        x, kernel, rtn(kernel, x, IntFormat(3))[0]
    )


def test_damping_grows_until_it_is_enough():
    """One direction a million times stronger: float32 sees a Hessian of rank one."""
    kernel, _ = drawn(5)
    x = jnp.ones((4, INPUTS)) * 1e3
    _, _, found = gptq(kernel, x, IntFormat(4), damping=1e-9)
    tries = np.log10(found["damping"] / 1e-9)
    assert tries >= 1
    np.testing.assert_allclose(tries, np.round(tries), atol=1e-4)
    assert not found["fallback"]


@pytest.mark.parametrize("size", [None, 4])
def test_a_hessian_that_no_damping_mends_falls_back_to_rounding(size):
    kernel, x = drawn(6)
    moments = add_rows(moments_init(INPUTS), x)
    # Off-diagonal sums greater than the diagonal: of no rows at all.
    wrong = Moments(moments.rows, moments.absolute, 9 * (1 - jnp.eye(INPUTS)) + jnp.eye(INPUTS))
    rounded, _, found = gptq(kernel, wrong, IntFormat(4), size)
    assert found["fallback"]
    np.testing.assert_allclose(rounded, rtn(kernel, None, IntFormat(4), size)[0], rtol=1e-6)


def test_sums_over_parts_are_those_over_all_rows():
    kernel, x = drawn(7)
    moments = moments_init(INPUTS)
    for part in jnp.split(x, 4):
        noisy = jnp.concatenate([part, jnp.full((2, INPUTS), jnp.nan)])
        moments = add_rows(moments, noisy, jnp.arange(len(noisy)) < len(part))
    assert moments.rows == len(x)
    rounded, _, _ = gptq(kernel, moments, IntFormat(3))
    np.testing.assert_allclose(rounded, gptq(kernel, x, IntFormat(3))[0], atol=1e-5)


def test_the_search_makes_weights_more_exact():
    kernel, x = drawn(8, inputs=64)
    for method in (rtn, gptq):
        found = [method(kernel, x, IntFormat(2, "asym"), search=search) for search in (False, True)]
        steps = [q.step for _, q, _ in found]
        assert bool((steps[1] <= steps[0]).all())
        assert bool((steps[1] < steps[0]).any())
    errors = [
        (jnp.abs(rtn(kernel, None, IntFormat(2, "asym"), search=search)[0] - kernel) ** 2.4).sum(0)
        for search in (False, True)
    ]
    assert bool((errors[1] <= errors[0]).all())


@pytest.mark.parametrize("value", [0.0, 2.5, -1.0])
@pytest.mark.parametrize("fmt", FORMATS, ids=str)
def test_constant_kernels(value, fmt):
    _, x = drawn(9)
    rounded, _, _ = gptq(jnp.full((INPUTS, 3), value), x, fmt, 4)
    assert bool(jnp.isfinite(rounded).all())
    if value == 0:
        np.testing.assert_array_equal(rounded, 0)


def test_types_are_kept_and_one_program_serves_all_bits(compiled_programs):
    kernel, x = drawn(10)
    rounded, q, _ = gptq(kernel.astype(jnp.bfloat16), x, IntFormat(4))
    assert (rounded.dtype, q.step.dtype, q.codes.dtype) == (jnp.bfloat16, jnp.float32, jnp.int8)
    gptq(kernel, x, IntFormat(4, "asym"))
    gptq(kernel, x, IntFormat(16, "asym"))  # makes what turns codes into 16 bits
    before = len(compiled_programs)
    for bits in (2, 3, 8):
        gptq(kernel, x, IntFormat(bits, "asym"))
    new = [name for name in compiled_programs[before:] if "gptq" in name]
    assert new == []


def test_inside_a_compiled_function():
    kernel, x = drawn(11)
    inside = jax.jit(lambda w, x: gptq(w, x, IntFormat(3), 4)[0])(kernel, x)
    np.testing.assert_allclose(inside, gptq(kernel, x, IntFormat(3), 4)[0], atol=1e-6)


KERNEL = jnp.ones((8, 4))
X = jnp.ones((5, 8))
WRONG = [
    ({"weights": jnp.ones(8)}, ValueError, r"weights must have shape \[inputs, outputs\]"),
    ({"weights": KERNEL.at[1, 2].set(jnp.nan)}, ValueError, "weights must be finite"),
    (
        {"weights": jnp.ones((8, 4), int)},
        ValueError,
        "weights must be floating-point numbers; got int",
    ),
    (
        {"calibration": X[:, :7]},
        ValueError,
        r"calibration must have shape \[rows, 8\]; got \(5, 7\)",
    ),
    ({"calibration": X[:0]}, ValueError, "calibration must have at least one row; got none"),
    ({"calibration": X.at[0, 0].set(jnp.inf)}, ValueError, "calibration must be finite"),
    ({"calibration": moments_init(8)}, ValueError, "calibration must have at least one row"),
    ({"calibration": moments_init(7)}, ValueError, "calibration must be of 8 inputs; got 7"),
    ({"fmt": parse_format("mxfp4")}, TypeError, "fmt must be one of IntFormat, FloatFormat"),
    ({"fmt": 4}, TypeError, "fmt must be one of IntFormat, FloatFormat; got 4"),
    ({"group_size": 3}, ValueError, "group_size must divide the 8 inputs.*; got 3"),
    ({"group_size": 0}, ValueError, "group_size must divide the 8 inputs.*; got 0"),
    ({"damping": 0.0}, ValueError, "damping must be above 0 and at most 1.0; got 0.0"),
    ({"damping": 2.0}, ValueError, "damping must be above 0 and at most 1.0; got 2.0"),
    ({"block": 0}, ValueError, "block must be at least 1; got 0"),
]


@pytest.mark.parametrize(("changes", "kind", "says"), WRONG)
def test_wrong_input_is_one_line(changes, kind, says):
    given = {"weights": KERNEL, "calibration": X, "fmt": IntFormat(4)} | changes
    with pytest.raises(kind, match=says) as caught:
        gptq(**given)
    assert "\n" not in str(caught.value)


def test_bits_out_of_range_are_refused_with_the_format():
    with pytest.raises(ValueError, match=r"bits must be a whole number in 2..16; got 1"):
        gptq(KERNEL, X, IntFormat(1))
    assert FloatFormat(2, 1).bits == 4
