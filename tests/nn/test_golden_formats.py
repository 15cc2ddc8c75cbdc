"""Number formats and fake quantisation against reference values (`precision.npz`)."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jlab.nn import PrecisionConfig
from jlab.nn.formats import FloatFormat, IntFormat, parse_format
from jlab.nn.products import quantized_matmul
from jlab.nn.quant import decode, encode, fake_quant, make_grid, round_to
from pallas_kernels import attention
from tests.precision.reference import TOLERANCE, cases, get

pytestmark = pytest.mark.golden

AXIS = {"tensor": None, "row": 1, "col": 0}
DTYPES = {"f32": np.float32, "f64": np.float64}
BITS = pytest.mark.parametrize("bits", ["f32", "f64"])


def close(got, want, bits):
    np.testing.assert_allclose(got, want, rtol=TOLERANCE[bits], atol=TOLERANCE[bits])


def array(bits, name):
    return jnp.asarray(get(name)[0], DTYPES[bits])


def format_of(name: str) -> FloatFormat:
    """`e4m3fn` has codes `fn`; of the others e4m3, e3m4 and e5m2 are `ieee`."""
    e, m, fn = re.fullmatch(r"e(\d+)m(\d+)(fn)?", name).groups()
    codes = "fn" if fn else "ieee" if (e, m) in {("4", "3"), ("3", "4"), ("5", "2")} else "all"
    return FloatFormat(int(e), int(m), codes)


@BITS
@pytest.mark.parametrize(("b", "shared"), cases(r"int\.b(\d+)\.(tensor|row|col)\.q"))
def test_integers(b, shared, bits):
    with jax.enable_x64(bits == "f64"):
        x, fmt = array(bits, "int.x"), IntFormat(int(b))
        grid = make_grid(x, fmt, AXIS[shared])
        q, s, deq = get(*(f"int.b{b}.{shared}.{field}" for field in ("q", "s", "deq")))
        np.testing.assert_array_equal(encode(x, fmt, grid), q)
        close(np.broadcast_to(1 / grid.step, np.shape(grid.step)).reshape(s.shape), s, bits)
        close(decode(encode(x, fmt, grid), grid), deq, bits)
        close(fake_quant(x, fmt, AXIS[shared]), deq, bits)


@BITS
@pytest.mark.parametrize("b", cases(r"int\.b(\d+)\.group\.deq"))
def test_groups(b, bits):
    with jax.enable_x64(bits == "f64"):
        s, deq = get(f"int.b{b}.group.s", f"int.b{b}.group.deq")
        size = deq.shape[1] // s.shape[1]
        found = fake_quant(array(bits, "int.x"), IntFormat(int(b)), 1, group_size=size)
        close(found, deq, bits)


@BITS
@pytest.mark.parametrize("b", cases(r"int\.ties\.b(\d+)\.q"))
def test_ties_go_to_the_even_code(b, bits):
    with jax.enable_x64(bits == "f64"):
        found = round_to(array(bits, f"int.ties.b{b}.x"), IntFormat(int(b)))
        np.testing.assert_array_equal(found, get(f"int.ties.b{b}.q")[0])


@BITS
@pytest.mark.parametrize("name", cases(r"int\.(zero)\.deq_row"))
def test_rows_of_zeros(name, bits):
    with jax.enable_x64(bits == "f64"):
        found = fake_quant(array(bits, f"int.{name}.x"), IntFormat(4), 1)
        close(found, get(f"int.{name}.deq_row")[0], bits)


@pytest.mark.parametrize("name", cases(r"fp\.(e\d+m\d+(?:fn)?)\.values"))
def test_the_numbers_of_a_float_format(name):
    with jax.enable_x64():
        (values,), fmt = get(f"fp.{name}.values"), format_of(name)
        assert fmt.max == values[-1]
        np.testing.assert_array_equal(round_to(jnp.asarray(values), fmt), values)
        between = jnp.asarray(values[:-1] + 0.25 * np.diff(values))
        np.testing.assert_array_equal(round_to(between, fmt), values[:-1])


@pytest.mark.parametrize("name", cases(r"fp\.(e\d+m\d+(?:fn)?)\.y"))
def test_rounding_to_a_float_format(name):
    with jax.enable_x64():
        found = round_to(array("f64", "fp.x"), format_of(name))
        np.testing.assert_array_equal(found, get(f"fp.{name}.y")[0])


@BITS
@pytest.mark.parametrize(("name", "shared"), cases(r"fp\.(e\d+m\d+(?:fn)?)\.fq_(tensor|row)"))
def test_scaled_float_formats(name, shared, bits):
    with jax.enable_x64(bits == "f64"):
        found = fake_quant(array(bits, "fp.w"), format_of(name), AXIS[shared])
        close(found, get(f"fp.{name}.fq_{shared}")[0], bits)


@BITS
@pytest.mark.parametrize("kind", cases(r"ste\.dx_(qres|origres)"))
def test_a_quantised_product_and_its_gradients(kind, bits):
    with jax.enable_x64(bits == "f64"):
        residuals = {"qres": "quantized", "origres": "original"}[kind]
        precision = PrecisionConfig("int4", "int6", residuals=residuals)
        x, w, g = (array(bits, f"ste.{field}") for field in "xwg")

        def product(x, w):
            return quantized_matmul(x[None], w, x.dtype, precision)[0]

        y, pull = jax.vjp(product, x, w)
        dx, dw = pull(g)
        close(y, get("ste.y")[0], bits)
        close(dx, get(f"ste.dx_{kind}")[0], bits)
        close(dw, get(f"ste.dw_{kind}")[0], bits)


@BITS
@pytest.mark.parametrize("ste", cases(r"ste\.fixed\.grad_(identity|clipped)"))
def test_a_fixed_step(ste, bits):
    with jax.enable_x64(bits == "f64"):
        (scale,), z = get("ste.fixed.scale"), array(bits, "ste.fixed.z")
        y, pull = jax.vjp(lambda z: fake_quant(z, IntFormat(4), ste=ste, step=1 / scale), z)
        close(y, get("ste.fixed.y")[0], bits)
        np.testing.assert_array_equal(pull(jnp.ones_like(z))[0], get(f"ste.fixed.grad_{ste}")[0])


@pytest.mark.parametrize("bits", ["f64"])  # each a program of its own
@pytest.mark.parametrize(("what", "b"), cases(r"attn\.(kv|qkv)(\d+)\.y"))
def test_attention_over_quantised_keys_and_values(what, b, bits):
    with jax.enable_x64(bits == "f64"):
        fmt, case = parse_format(f"int{b}"), f"attn.{what}{b}"
        arrays = [array(bits, f"attn.{name}") for name in ("q", "k", "v", "cot")]
        q, k, v, cotangent = (x.swapaxes(0, 1)[None] for x in arrays)  # [batch, length, heads, dim]

        def attend(q, k, v):
            q = fake_quant(q, fmt) if what == "qkv" else q
            return attention(q, fake_quant(k, fmt), fake_quant(v, fmt), causal=True)

        y, pull = jax.vjp(attend, q, k, v)
        for name, found in zip(("y", "dq", "dk", "dv"), (y, *pull(cotangent)), strict=True):
            close(found[0].swapaxes(0, 1), get(f"{case}.{name}")[0], bits)
