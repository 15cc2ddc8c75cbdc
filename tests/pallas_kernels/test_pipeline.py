"""The template: rings, nested loops, persistent blocks, stores, and what it refuses.

The kernel here adds up tiles, so that every tile that comes late, twice or not at all shows.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import pallas as pl

from pallas_kernels._compat import races_found
from pallas_kernels.grid import supertile
from pallas_kernels.pipeline import Kernel, stages_that_fit
from pallas_kernels.tiles import Tile

ROWS, COLUMNS = 64, 32
TILE = Tile((ROWS, COLUMNS), jnp.float32)


def weighted_sums(x, *, groups, steps, **options):
    """Sum over g and i of (g * steps + i + 1) * x[task, g, i], and all partial sums."""
    tasks = x.shape[0]
    each = ROWS * 2

    def rows(task):
        return pl.ds(task.consumer * ROWS, ROWS)

    def compute(task, stage, total, g, i):
        mine = task.t.load(stage.x.at[rows(task)])
        total = total + mine * (g * steps + i + 1).astype(jnp.float32)
        task.store(part=(total, task.gmem.part.at[task.at.task, g, i, rows(task)]))
        return total

    settings = {
        "grid": {"task": tasks},
        "out": {
            "y": jax.ShapeDtypeStruct((tasks, each, COLUMNS), jnp.float32),
            "part": jax.ShapeDtypeStruct(x.shape, jnp.float32),
        },
        "ring": {"x": Tile((each, COLUMNS), jnp.float32)},
        "loops": lambda task: ((0, groups), (0, steps)),
        "load": lambda task, g, i: {"x": task.gmem.x.at[task.at.task, g, i]},
        "setup": lambda task: task.t.load(task.smem.start),
        "compute": compute,
        "finish": lambda task, total: task.store(
            y=(total, task.gmem.y.at[task.at.task, rows(task)])
        ),
        "fetched": {"start": TILE},
        "fetch": lambda task: {"start": task.gmem.x.at[task.at.task, 0, 0, rows(task)]},
        "scratch": {"y": TILE, "part": TILE},
        "interpret": True,
    }
    return Kernel(**settings | options)(x=x)


def expected(x):
    tasks, groups, steps = x.shape[:3]
    weights = 1 + np.arange(groups * steps, dtype=np.float32)
    flat = np.asarray(x).reshape(tasks, groups * steps, *x.shape[3:])
    parts = flat[:, :1] + np.cumsum(weights[None, :, None, None] * flat, 1)
    return parts[:, -1], parts.reshape(x.shape)


def numbers(tasks, groups, steps):
    shape = (tasks, groups, steps, 2 * ROWS, COLUMNS)
    return jnp.asarray(np.random.default_rng(0).integers(-8, 9, shape), jnp.float32)


def check(tasks, groups, steps, **options):
    x = numbers(tasks, groups, steps)
    results = weighted_sums(x, groups=groups, steps=steps, **options)
    assert not races_found()
    y, part = expected(x)  # whole numbers: exact in float32
    np.testing.assert_array_equal(results["y"], y)
    np.testing.assert_array_equal(results["part"], part)


@pytest.mark.slow
def test_a_persistent_block_goes_through_its_tasks_with_a_ring_that_wraps():
    """Three tasks for two blocks, six steps each, two stages: the ring wraps inside and between."""
    order = lambda n: {"task": supertile(n, 3, 1, 2)[0]}  # noqa: E731
    check(3, 2, 3, stages=2, blocks=2, order=order)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tasks", "groups", "steps", "options"),
    [
        (1, 1, 1, {"stages": 4}),  # fewer steps than stages: nothing to wait for in the end
        (2, 1, 5, {"stages": 3}),  # a block for each task
        (2, 3, 1, {"stages": 1}),  # producer and consumers in turn
        (5, 1, 2, {"stages": 2, "blocks": 8}),  # more blocks than tasks
        (3, 1, 2, {"stages": 8, "blocks": 1}),  # the ring holds more than a task
    ],
)
def test_any_depth_and_any_number_of_tasks(tasks, groups, steps, options):
    check(tasks, groups, steps, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stages": 0}, r"stages must be in \[1, 8\]; got 0"),
        ({"stages": 9}, r"stages must be in \[1, 8\]; got 9"),
        ({"consumers": 8}, r"consumers must be in \[1, 7\]; got 8"),
        ({"order": lambda n: {"task": n}}, "order needs blocks"),
        ({"blocks": 0}, "blocks must be at least 1; got 0"),
        ({"grid": {"task": 0}}, "task must be at least 1; got 0"),
        ({"producer_registers": 33}, r"must be a multiple of 8 in \[24, 240\]; got 33"),
        ({"ring": {}}, "ring must have at least one tile; got none"),
        ({"fetch": None}, "fetched tiles need fetch; got none for start"),
        ({"scratch": {"start": TILE}}, r"fetched or in scratch; in both: \['start'\]"),
        ({"scratch": {"y": Tile((512, 256), jnp.float32)}}, "2 stages of the ring must fit in -"),
        # What would be waited for without end.
        ({"load": lambda task, g, i: {}}, "load must give sources of the tiles x; got none"),
        ({"fetch": lambda task: {}}, "fetch must give sources of the tiles start; got none"),
        (
            {"load": lambda task, g, i: {"x": task.gmem.x.at[0, 0, 0, pl.ds(0, 32)]}},
            r"load: the source of x must be float32\[128, 32\]; got float32\[32, 32\]",
        ),
    ],
)
def test_what_no_kernel_can_have_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        weighted_sums(numbers(1, 1, 1), groups=1, steps=1, **options)


def test_the_ring_is_as_deep_as_shared_memory_allows():
    stage = {"a": Tile((128, 64), jnp.bfloat16), "b": Tile((64, 256), jnp.bfloat16)}  # 48 KiB
    assert stages_that_fit(stage, {}, most=3) == 3
    assert stages_that_fit(stage, {"y": Tile((64, 256), jnp.bfloat16)}) == 3  # 64 KiB for two
    with pytest.raises(ValueError, match=r"1 stage .* must fit in 98304 bytes"):
        stages_that_fit(
            {"x": Tile((256, 256), jnp.bfloat16)}, {"y": Tile((128, 256), jnp.bfloat16)}
        )
