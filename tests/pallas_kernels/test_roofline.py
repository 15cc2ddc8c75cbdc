"""The roofline account: limits worked out by hand, and what a case moves."""

import jax.numpy as jnp
import pytest

from pallas_kernels import chips, roofline
from pallas_kernels.case import Case, array, gradient, normal
from pallas_kernels.chips import A100, H100
from pallas_kernels.roofline import Ceilings, Floor, data_sheet, floor


def product(a, b, implementation, interpret):
    return (a @ b).astype(jnp.bfloat16)


def square(n, dtype=jnp.bfloat16):
    return Case("product/n", product, (array(n, n, dtype=dtype),) * 2, flops=2 * n**3)


def test_a_case_moves_every_input_and_output_once():
    assert square(64).bytes == 3 * 64 * 64 * 2
    case = Case("product/gradient", gradient(product, 2), (array(8, 8),) * 3, flops=4 * 8**3)
    assert case.bytes == 5 * 8 * 8 * 2  # a, b and the cotangent come in, two gradients go out


def test_the_floor_is_the_longer_of_arithmetic_and_memory():
    # A square of n: 2 n^3 operations on 6 n^2 bytes, n / 3 operations per byte.
    ceilings = Ceilings("by hand", operations=100.0, operations_8bit=200.0, bandwidth=10.0)
    assert floor(square(24), ceilings) == Floor(2 * 24**3 / 100, 8.0, "memory")._replace(
        seconds=6 * 24**2 / 10
    )
    assert floor(square(60), ceilings) == Floor(2 * 60**3 / 100, 20.0, "arithmetic")


def test_8_bit_operands_have_their_own_ceiling():
    small = square(4096, jnp.float8_e4m3fn)
    assert floor(small, data_sheet(H100)).seconds == pytest.approx(2 * 4096**3 / 1978.9e12)
    assert floor(small, data_sheet(A100)).seconds == pytest.approx(2 * 4096**3 / 312e12)


def test_ceilings_are_measured_by_a_product_and_a_copy():
    found = roofline.measured(H100, rounds=2, size=64)
    assert found.source == "measured"
    assert found.operations > 0
    assert found.bandwidth > 0
    assert found.operations_8bit / found.operations == pytest.approx(1978.9 / 989.4)


def test_a_chip_is_found_by_the_name_its_driver_gives():
    assert chips.find("NVIDIA H100 80GB HBM3") is H100
    assert chips.find("NVIDIA H200").memory > H100.memory
    assert chips.find("cpu") is None


def test_inputs_have_the_types_asked_for_and_differ():
    import jax

    a, b = normal(jax.random.key(0), (array(4, 4), array(4, 4)))
    assert a.dtype == b.dtype == jnp.bfloat16
    assert (a != b).any()
