"""The simulators: the specification's numbers, limits worked out by hand, and refusals."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pallas_kernels.grid import supertile
from pallas_kernels.traffic import Layout, bank_conflicts, l2_traffic, pipeline_throughput


def bands(width):
    return lambda task, rows, columns: supertile(task, rows, columns, width)


@pytest.mark.parametrize(
    ("width", "gigabytes"), [(1, 34.1), (4, 18.8), (8, 11.5), (12, 9.5), (16, 9.3)]
)
def test_bands_cut_the_traffic_of_a_large_product(width, gigabytes):
    # To the digits of the reference: 132 SMs in lock step, tiles 128 x 256, inner step 64, LRU.
    read = l2_traffic(bands(width), 16384, 16384, 16384)
    assert read / 1e9 == pytest.approx(gigabytes, abs=0.05)


def test_the_order_hardly_matters_for_a_product_that_fits_the_cache():
    read = [l2_traffic(bands(width), 4096, 4096, 4096) / 1e9 for width in (1, 8)]
    assert read == pytest.approx([0.17, 0.17], abs=0.02)  # one digit more than the reference has


def test_a_cache_that_holds_everything_reads_each_matrix_once():
    read = l2_traffic(bands(2), 1024, 1024, 512, sms=3, cache=float("inf"))
    assert read == 2 * (1024 * 512) * 2  # two matrices of 16-bit numbers


def test_without_a_cache_every_wave_reads_its_own_tiles():
    # Two SMs, four tasks in row-major order: each wave is one row of tiles and two columns.
    read = l2_traffic(bands(1), 256, 512, 64, sms=2, cache=0)
    assert read == 2 * (128 + 2 * 256) * 64 * 2


@given(st.floats(0.1, 5), st.floats(0.1, 5), st.floats(0, 1), st.integers(1, 8))
def test_a_deeper_ring_is_never_slower_and_never_beats_the_consumers(load, compute, jitter, stages):
    def share(stages):
        return pipeline_throughput(stages, load=load, compute=compute, jitter=jitter, steps=50)

    assert share(stages) <= share(stages + 1) <= 1


def test_without_jitter_the_throughput_is_that_of_the_formula():
    # A step of one buffer takes load + compute; n buffers hide the load n - 1 times.
    shares = [pipeline_throughput(n, load=1.2, compute=0.5, jitter=0) for n in (1, 2, 3, 4)]
    # The first load is not hidden: 1.2 of some 500 microseconds.
    assert shares == pytest.approx([0.5 / 1.7, 1 / 1.7, 1.5 / 1.7, 1], rel=5e-3)


def test_four_stages_gain_what_the_paper_reports():
    shares = np.array([pipeline_throughput(n) for n in (1, 2, 3, 4)])
    # 260, 484, 683 and 760 TFLOP/s: 5 % for a model with three numbers.
    assert shares / shares[0] == pytest.approx([1, 484 / 260, 683 / 260, 760 / 260], rel=0.05)


@pytest.mark.parametrize(
    ("layout", "conflicts"),
    [
        (Layout(128), (1, 8)),  # 8 rows, one below the other: all in the same four banks
        (Layout(64), (1, 4)),
        (Layout(32), (1, 2)),
        (Layout(128, padding=16), (1, 1)),
        (Layout(128, swizzle=128), (1, 1)),
        (Layout(64, swizzle=64), (1, 1)),
        (Layout(32, swizzle=32), (1, 1)),
    ],
    ids=str,
)
def test_swizzles_and_padding_free_column_reads_of_conflicts(layout, conflicts):
    assert bank_conflicts(layout) == conflicts


@pytest.mark.parametrize("swizzle", [32, 64, 128])
def test_a_swizzle_only_rearranges(swizzle):
    row, byte = np.divmod(np.arange(8 * 128), swizzle)
    addresses = Layout(swizzle, swizzle=swizzle).address(row, byte)
    assert sorted(addresses) == list(range(8 * 128))


def test_layouts_that_the_hardware_lacks_are_refused_by_name():
    with pytest.raises(ValueError, match="swizzle must be 0, 32, 64 or 128; got 16"):
        bank_conflicts(Layout(64, swizzle=16))
    with pytest.raises(ValueError, match="row_bytes must be the swizzle's 64; got 128"):
        bank_conflicts(Layout(128, swizzle=64))
    with pytest.raises(ValueError, match="row_bytes must be a multiple of 16; got 100"):
        bank_conflicts(Layout(100))
    with pytest.raises(ValueError, match="stages must be at least 1; got 0"):
        pipeline_throughput(0)
