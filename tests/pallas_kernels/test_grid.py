"""The order of tasks: every one once, bands, and the same numbers from Python, numpy and traces."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pallas_kernels.grid import supertile, tasks_of, unravel

sizes = st.integers(1, 12)


@given(sizes, sizes, sizes)
def test_every_tile_is_visited_once(rows, columns, width):
    seen = [supertile(task, rows, columns, width) for task in range(rows * columns)]
    assert sorted(seen) == [(r, c) for r in range(rows) for c in range(columns)]


@given(sizes, sizes)
def test_bands_of_one_row_are_row_major(rows, columns):
    tasks = range(rows * columns)
    assert [supertile(t, rows, columns, 1) for t in tasks] == [
        unravel(t, (rows, columns)) for t in tasks
    ]


@given(sizes, sizes, sizes)
def test_neighbours_in_a_band_share_their_column(rows, columns, width):
    """Within a band the first `width` tasks differ in their row only."""
    band = [supertile(task, rows, columns, width) for task in range(min(width, rows))]
    assert band == [(r, 0) for r in range(min(width, rows))]


@pytest.mark.parametrize(("rows", "columns", "width"), [(5, 3, 2), (4, 7, 8), (1, 1, 1)])
def test_python_numpy_and_traced_numbers_agree(rows, columns, width):
    tasks = np.arange(rows * columns)
    plain = [supertile(int(t), rows, columns, width) for t in tasks]
    assert [tuple(p) for p in np.stack(supertile(tasks, rows, columns, width), 1)] == plain
    traced = jax.jit(jax.vmap(lambda t: jnp.stack(supertile(t, rows, columns, width))))(tasks)
    assert [tuple(p) for p in np.asarray(traced)] == plain


@given(st.integers(1, 9), st.integers(0, 40))
def test_blocks_share_all_tasks(blocks, tasks):
    assert sum(tasks_of(block, blocks, tasks) for block in range(blocks)) == tasks


@given(st.integers(1, 9), st.integers(0, 40))
def test_a_block_takes_every_so_manyth_task(blocks, tasks):
    for block in range(blocks):
        assert tasks_of(block, blocks, tasks) == len(range(block, tasks, blocks))
