"""Gradients of dropout, residual and norm on Hopper, in one pass over r and dy.

With g = weight * dy, c = r - mean and rstd^2 = 1 / (mean(c^2) + eps),

    dr = rstd * (g - mean(g) - c * rstd^2 * mean(g * c)) + d_total
    dresidual = dr,  dx = dr * keep / (1 - p),  dweight = sum(dy * c * rstd),  dbias = sum(dy)

where RMS norm has c = r and no mean(g). The statistics are made again from r, which is there
anyway. Every consumer adds up its own share of dweight and dbias over its rows, in order; XLA adds
the shares, so that the result is the same every time. Source: derived.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from pallas_kernels.ops.layernorm.gradients import Gradients
from pallas_kernels.ops.layernorm.mosaic import (
    Config,
    block_number,
    centre,
    config_for,
    dropped,
    kernel,
    n_parts,
    streams,
)
from pallas_kernels.ops.layernorm.rows import Cut, Rows, sums
from pallas_kernels.ops.layernorm.xla import Setting
from pallas_kernels.pipeline import Task

_MOST_ROWS = 2  # at a time: two streams of them and two sums take twice the registers


def backward(
    setting: Setting,
    total: Float[Array, "b n dim"],
    weight: Float[Array, "dim"],
    words: Int[Array, "b n 2"] | None,
    dy: Float[Array, "b n dim"],
    d_total: Float[Array, "b n dim"] | None,
    *,
    config: Config | None = None,
    interpret: bool = False,
) -> Gradients:
    """All gradients; `total` is r, and `d_total` the gradient that reaches it from elsewhere."""
    batch, n, dim = total.shape
    cut, config = Cut(dim), config or config_for(n, dim, _MOST_ROWS)
    inputs = streams(cut, config, words, total=total, dy=dy, d_total=d_total)
    shape = inputs["total"].shape
    outputs = Gradients.rows_of(words, d_total)
    shares = (batch, n_parts(shape[1], config), config.consumers, *cut.shape)

    def compute(task: Task, stage: Any, carry: tuple, number: Any) -> tuple:
        first = block_number(task, number, config, shape[1]) * config.block
        mine = [task.consumer * config.rows + r for r in range(config.rows)]
        w = cut.load(task, task.smem.weight)
        centered = centre(task, setting, cut, [cut.load(task, stage.total.at[i]) for i in mine])
        dys = [cut.load(task, stage.dy.at[i]) for i in mine]
        quantities = [[c * c, dy * w * c, dy * w] for c, dy in zip(centered, dys, strict=True)]
        means = sums(task, task.smem.parts.at[1], quantities)
        results, (dweight, dbias) = {}, carry
        for r, (i, c, dy, row) in enumerate(zip(mine, centered, dys, means, strict=True)):
            square, along, level = (x / dim for x in row)
            rstd = lax.rsqrt(square + setting.eps)
            dr = dy * w - c * (rstd * rstd * along)
            dr = (dr - level if setting.center else dr) * rstd
            if d_total is not None:
                dr = dr + cut.load(task, stage.d_total.at[i])
            where = task.at.batch, first + i
            if "dtotal" in outputs:
                results[f"dtotal{r}"] = dr, task.gmem.dtotal.at[where]
            if words is not None:
                dr = dropped(task, setting, cut, stage, i, dr)
                results[f"dx{r}"] = dr, task.gmem.dx.at[where]
            dweight, dbias = dweight + dy * (c * rstd), dbias + dy
        task.store(**results)
        return dweight, dbias

    def finish(task: Task, carry: tuple) -> None:
        at = task.at.batch, task.at.part, task.consumer
        for share, ref in zip(carry, (task.gmem.dweight, task.gmem.dbias), strict=True):
            task.store(share=(share, ref.at[at]))

    rows = {f"{name}{r}": Rows(cut.shape, dy.dtype) for name in outputs for r in range(config.rows)}
    rows["share"] = Rows(cut.shape, jnp.float32)
    types = {name: jax.ShapeDtypeStruct(shape, dy.dtype) for name in outputs}
    sums_of_rows = jax.ShapeDtypeStruct(shares, jnp.float32)
    results = kernel(
        cut,
        config,
        inputs,
        {"weight": weight},
        compute,
        rows,
        interpret,
        out=types | {"dweight": sums_of_rows, "dbias": sums_of_rows},
        setup=lambda task: (cut.zeros(task), cut.zeros(task)),
        finish=finish,
    )
    whole = {name: cut.restored(results[name])[:, :n] for name in outputs}
    for name in ("dweight", "dbias"):
        whole[name] = cut.restored(results[name]).reshape(batch, -1, dim)
    return Gradients.of(whole)
