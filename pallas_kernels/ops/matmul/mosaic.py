"""Matrix product on Hopper: persistent blocks, bands of tiles, the epilogue in registers.

Source: ThunderKittens, arXiv 2410.20399, Section 3.2 and Figure 2; the released `gemm/bf16_h100`.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from pallas_kernels.grid import supertile
from pallas_kernels.ops.matmul.epilogue import after, before
from pallas_kernels.pipeline import Kernel, Task, stages_that_fit
from pallas_kernels.tiles import Tile

_BY_COLUMN = {"bias", "gate", "column_scale"}


@dataclass(frozen=True)
class Config:
    """Tiles and order of the product; the defaults are the released ones."""

    rows: int = 64  # of each consumer's tile of the result
    columns: int = 256
    step: int = 64  # inner dimensions per stage, of 16-bit numbers; twice as many of 8-bit ones
    consumers: int = 2
    stages: int = 4  # at most: fewer where the result's tiles leave no room
    band: int = 8  # block rows of a band, see `grid.supertile`
    blocks: int = 132  # persistent blocks: one per streaming multiprocessor


def matmul(
    a: jax.Array,
    b: jax.Array,
    extra: dict[str, jax.Array],
    *,
    activation: str | None,
    out_dtype: Any,
    trans_a: bool = False,
    trans_b: bool = False,
    save_pre: bool = False,
    config: Config | None = None,
    interpret: bool = False,
) -> tuple[jax.Array, jax.Array | None]:
    """The product with its epilogue, and with `save_pre` also what went into the activation.

    `a` is [m, k] or, transposed, [k, m]; `b` is [k, n] or [n, k]; `extra` has the epilogue's
    arrays by name, without those that are None.
    """
    m = a.shape[trans_a]
    n = b.shape[not trans_b]
    if config is None:
        # A row vector of 256, or a residual, takes 64 registers a thread beside the result's 128.
        widest = 256 if len({*_BY_COLUMN, "residual"} & extra.keys()) < 2 else 128
        config = Config(columns=min(widest, 256 if n > 128 else 128 if n > 64 else 64))
    step = config.step * 2 // a.dtype.itemsize
    block = config.rows * config.consumers
    a = _padded(a, *((step, block) if trans_a else (block, step)))
    b = _padded(b, *((config.columns, step) if trans_b else (step, config.columns)))
    whole = {"row_scale": block} | dict.fromkeys(_BY_COLUMN, config.columns)
    inputs = {"a": a, "b": b}
    for name, x in extra.items():
        if name == "residual":
            inputs[name] = _padded(x.astype(out_dtype), block, config.columns)
        else:
            inputs[name] = _padded(x.astype(jnp.float32)[None], 1, whole[name])[0]
    kernel = _kernel(inputs, activation, out_dtype, (trans_a, trans_b), save_pre, config, interpret)
    results = kernel(**inputs)
    return results["y"][:m, :n], results["pre"][:m, :n] if save_pre else None


def _kernel(
    inputs: dict[str, jax.Array],
    activation: str | None,
    out_dtype: Any,
    transposed: tuple[bool, bool],
    save_pre: bool,
    config: Config,
    interpret: bool,
) -> Kernel:
    """The kernel for inputs of whole tiles."""
    (trans_a, trans_b), dtype = transposed, inputs["a"].dtype
    m, k = inputs["a"].shape[trans_a], inputs["a"].shape[not trans_a]
    n = inputs["b"].shape[not trans_b]
    rows, columns, step = config.rows, config.columns, config.step * 2 // dtype.itemsize
    block, shape = rows * config.consumers, (config.rows, config.columns)
    across, down = m // block, n // columns

    def load(task: Task, i: Any) -> dict[str, Any]:
        inner = pl.ds(i * step, step)
        mine, theirs = pl.ds(task.at.row * block, block), pl.ds(task.at.column * columns, columns)
        return {
            "a": task.gmem.a.at[(inner, mine) if trans_a else (mine, inner)],
            "b": task.gmem.b.at[(theirs, inner) if trans_b else (inner, theirs)],
        }

    def place(task: Task) -> tuple[Any, Any]:
        row = task.at.row * block + task.consumer * rows
        return pl.ds(row, rows), pl.ds(task.at.column * columns, columns)

    def spread(task: Task, name: str) -> jax.Array:
        """An array of the epilogue, as a float32 tile."""
        ref = getattr(task.smem, name)
        if name == "row_scale":
            return task.t.across(task.t.load_column(ref), shape)
        return task.t.down(task.t.load_row(ref), shape)

    def compute(task: Task, stage: Any, acc: jax.Array, i: Any) -> jax.Array:
        mine = pl.ds(task.consumer * rows, rows)
        a = stage.a.at[:, mine] if trans_a else stage.a.at[mine]
        return task.t.mma(acc, a, stage.b, trans_a=trans_a, trans_b=trans_b)

    def fetch(task: Task) -> dict[str, Any]:
        here = place(task)
        where = dict.fromkeys(_BY_COLUMN, here[1]) | {"row_scale": here[0]}
        sources = {name: getattr(task.gmem, name).at[where[name]] for name in vectors}
        return sources | ({"y": task.gmem.residual.at[here]} if added else {})

    def finish(task: Task, acc: jax.Array) -> None:
        def part(name: str) -> jax.Array | None:
            return spread(task, name) if name in vectors else None

        # Each part is read when it is needed: together they would not fit into the registers.
        pre = before(acc, part("row_scale"), part("column_scale"), part("bias"))
        y = after(pre, activation, part("gate"))
        if added:
            y = y + task.t.load(task.smem.y).astype(jnp.float32)
        where = place(task)
        outputs = {"y": (y, task.gmem.y.at[where])}
        if save_pre:
            outputs["pre"] = (pre, task.gmem.pre.at[where])
        task.store(**outputs)

    lengths = {"row_scale": rows} | dict.fromkeys(_BY_COLUMN, columns)
    vectors = {n: Tile((lengths[n],), jnp.float32) for n in inputs if n in lengths}
    # The residual comes in the tile that the result leaves by.
    added = {"y": Tile(shape, inputs["residual"].dtype)} if "residual" in inputs else {}
    out = {"y": jax.ShapeDtypeStruct((m, n), out_dtype)}
    if save_pre:
        out["pre"] = jax.ShapeDtypeStruct((m, n), dtype)
    ring = {
        "a": Tile((step, block) if trans_a else (block, step), dtype),
        "b": Tile((columns, step) if trans_b else (step, columns), dtype),
    }
    scratch = {name: Tile(shape, x.dtype) for name, x in out.items() if name not in added}
    own = {**vectors, **added, **scratch}
    return Kernel(
        grid={"row": across, "column": down},
        out=out,
        ring=ring,
        loops=lambda task: ((0, k // step),),
        load=load,
        setup=lambda task: task.t.full(shape),
        compute=compute,
        finish=finish,
        fetched={**vectors, **added},
        fetch=fetch,
        scratch=scratch,
        blocks=config.blocks,
        order=lambda task: dict(
            zip(("row", "column"), supertile(task, across, down, config.band), strict=True)
        ),
        consumers=config.consumers,
        stages=stages_that_fit(ring, own, consumers=config.consumers, most=config.stages),
        interpret=interpret,
    )


def _padded(x: jax.Array, rows: int, columns: int) -> jax.Array:
    """Zeros added up to whole tiles: they add nothing to a product."""
    more = (-x.shape[0] % rows, -x.shape[1] % columns)
    return jnp.pad(x, ((0, more[0]), (0, more[1]))) if any(more) else x
