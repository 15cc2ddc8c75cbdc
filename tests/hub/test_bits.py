"""Numbers packed to the bit come back, and take no more room than their bits."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import jlab.hub.bits
from jlab.hub.bits import pack_bits, packed_size, unpack_bits


@st.composite
def numbers(draw):
    bits = draw(st.integers(1, 16))
    values = draw(st.lists(st.integers(0, 2**bits - 1), max_size=70))
    return np.array(values, np.int64), bits


@given(numbers())
def test_what_is_packed_comes_back(case):
    values, bits = case
    packed = pack_bits(values, bits)
    assert packed.dtype == np.uint8
    assert len(packed) == packed_size(bits, len(values)) == -(-len(values) * bits // 8)
    np.testing.assert_array_equal(unpack_bits(packed, bits, len(values)), values)


@given(numbers())
def test_chunks_make_no_difference(case):
    values, bits = case
    whole = pack_bits(values, bits)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jlab.hub.bits, "_CHUNK", 8)
        np.testing.assert_array_equal(pack_bits(values, bits), whole)
        np.testing.assert_array_equal(unpack_bits(whole, bits, len(values)), values)


def test_three_bits_by_hand():
    # 1, 2, 7, from the lowest bit on: 100 010 111 -> 10001011 and 1
    assert pack_bits(np.array([[1, 2], [7, 0]]), 3).tolist() == [0b11010001, 0b1]


@pytest.mark.parametrize(("values", "says"), [([8], "8..8"), ([-1, 3], "-1..3")])
def test_numbers_that_do_not_fit_are_refused(values, says):
    with pytest.raises(ValueError, match=rf"values must be in \[0, 8\); got {says}"):
        pack_bits(np.array(values), 3)
