"""RTN, GPTQ and AWQ against the released code, whose weights are `[outputs, inputs]`."""

import jax.numpy as jnp
import numpy as np
import pytest

from jlab.nn.formats import IntFormat
from jlab.precision import add_rows, awq, gptq, moments_init, rtn
from tests.precision.reference import DTYPES, TOLERANCE, cases, get, precision, settings

pytestmark = pytest.mark.golden


@pytest.mark.parametrize(("bits", "kind"), cases(r"rtn\.b(\d+)\.(sym|asym)"))
@pytest.mark.parametrize("dtype", DTYPES)
def test_rounding_to_nearest(bits, kind, dtype):
    with precision(dtype):
        weights, expected = get("gptq.W", f"rtn.b{bits}.{kind}")
        fmt = IntFormat(int(bits), "gptq_sym" if kind == "sym" else "asym")
        found, _, _ = rtn(jnp.asarray(weights.T, DTYPES[dtype]), None, fmt)
        np.testing.assert_allclose(found.T, expected, atol=TOLERANCE[dtype] * 10, rtol=0)


def test_the_sums_that_make_the_hessian():
    with precision("f64"):
        x, hessian = get("gptq.X", "gptq.H")
        moments = moments_init(x.shape[1], jnp.float64)
        for part in np.split(x, 4):
            moments = add_rows(moments, jnp.asarray(part))
        # There each of four batches counts as one sample.
        np.testing.assert_allclose(2 / 4 * moments.second, hessian, rtol=1e-12, atol=1e-12)
        assert moments.rows == len(x)


def quantise(case: str, dtype: str):
    """What we make of a case, and what the file has."""
    config = settings(case)["cfg"]
    weights, x, expected = get("gptq.W", "gptq.X", f"gptq.{case}.Q")
    fmt = IntFormat(config["bits"], "gptq_sym" if config["sym"] else "asym")
    found, _, said = gptq(
        jnp.asarray(weights.T, DTYPES[dtype]),
        jnp.asarray(x, DTYPES[dtype]),
        fmt,
        config.get("groupsize"),
        damping=config.get("damp", 0.01),
        block=config.get("block", 128),
        act_order=config.get("actorder", False),
        static_groups=config.get("static", False),
    )
    assert not said["fallback"]
    output = np.mean((x @ (np.asarray(found, np.float64) - weights.T)) ** 2)
    return np.asarray(found).T, expected, output, said


@pytest.mark.parametrize("case", cases(r"gptq\.(\d+)\.Q"))
def test_gptq_in_float64(case):
    with precision("f64"):
        found, expected, output, said = quantise(case, "f64")
        np.testing.assert_allclose(found, expected, atol=1e-9, rtol=0)
        reference = settings(case)
        np.testing.assert_allclose(output, reference["out_mse"], rtol=1e-9)
        # Its Hessian counts four samples, ours as many as there are rows.
        scaled = reference["ref_error"] * 4 / len(get("gptq.X")[0])
        np.testing.assert_allclose(said["loss"], scaled, rtol=1e-9)


@pytest.mark.parametrize("case", cases(r"gptq\.(\d+)\.Q"))
def test_gptq_in_float32(case):
    """A float32 sum can put a weight near a tie on its other side, and what follows with it."""
    found, expected, output, _ = quantise(case, "f32")
    assert np.mean(np.isclose(found, expected, atol=1e-5)) >= 0.99
    np.testing.assert_allclose(output, settings(case)["out_mse"], rtol=0.01)


def awq_case(name: str, dtype: str):
    """Kernel, inputs, format and group size of a case."""
    bits, size = name.split(".g")
    weights, x = get("awq.W", "awq.X")
    size = None if size == "-1" else int(size)
    fmt = IntFormat(int(bits), "awq_asym")
    return jnp.asarray(weights.T, DTYPES[dtype]), jnp.asarray(x, DTYPES[dtype]), fmt, size


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", cases(r"awq\.b(\d+\.g-?\d+)\.losses"))
def test_scales_of_awq(name, dtype):
    """Without clipping no range is symmetric, so that ties are of no account."""
    with precision(dtype):
        weights, *rest = awq_case(name, dtype)
        found, _, said = awq(weights, *rest, clip=False)
        tolerance = TOLERANCE[dtype]
        for key in ("losses", "ratio", "scales"):
            expected = get(f"awq.b{name}.{key}")[0]
            np.testing.assert_allclose(said[key], expected, rtol=tolerance, err_msg=key)
        np.testing.assert_allclose(found.T, get(f"awq.b{name}.Wq")[0], atol=tolerance, rtol=0)
        rounded, _, _ = rtn(weights, None, *rest[1:])
        np.testing.assert_allclose(
            rounded.T, get(f"awq.b{name}.asym_rtn")[0], atol=tolerance, rtol=0
        )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("settle_ties", [False, True])
@pytest.mark.parametrize("name", cases(r"awq\.b(\d+\.g-?\d+)\.clip_max"))
def test_ranges_of_awq(name, settle_ties, dtype):
    """A range cut at both ends makes the zero point a tie, which arithmetic decides (see `awq`).

    Another choice than the reference's must be as good: its own error is at most a tenth more.
    """
    with precision(dtype):
        weights, x, fmt, size = awq_case(name, dtype)
        how = {"scale": False, "settle_ties": settle_ties}
        _, _, said = awq(weights, x, fmt, size, **how)
        (expected,) = get(f"awq.b{name}.clip_max")
        found = np.asarray(said["clip"]).T
        widest = np.abs(np.asarray(weights).T.reshape(*found.shape, -1)).max(-1)
        tenths = (found / widest)[..., None] - (1 - np.arange(10) / 20)
        assert np.abs(tenths).min(-1).max() < 1e-6, "one of the ten shares"
        assert np.isclose(found, expected, rtol=1e-6).mean() >= {"f64": 0.9, "f32": 0.7}[dtype]
        errors = [clip_error(weights, x, fmt, limits) for limits in (found, expected)]
        assert errors[0] <= 1.1 * errors[1]


def clip_error(weights, x, fmt, limits) -> float:
    """Sum over outputs and groups of the squared error of each group's part of the output."""
    groups = limits.shape[1]
    bound = np.repeat(limits, len(weights) // groups, axis=1).T
    cut = jnp.clip(weights, -bound, bound)
    rounded, _, _ = rtn(cut, None, fmt, len(weights) // groups)
    change = np.asarray(rounded - weights).reshape(groups, -1, weights.shape[1])
    parts = np.einsum("tgk,gko->tgo", np.asarray(x).reshape(len(x), groups, -1), change)
    return float((parts**2).sum())
