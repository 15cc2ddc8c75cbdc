"""Hybrid attention forward on Hopper: one pass over the blocks, the far past in registers.

A block of threads walks through one head's blocks in order. Of each it reads the queries, its keys
and values and those of the block before; the sum of all earlier blocks stays in registers in
float32, and in shared memory in 16 bits for the tensor cores. Several values' columns are several
blocks of threads, so that sum and result of one fit the registers of one warpgroup.

Source: arXiv 2410.10254, Appendix C.2, and the released ThunderKittens kernel `hedgehog`.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jaxtyping import Array, Float

from pallas_kernels.ops.hybrid_attention.operands import Operands, Rule
from pallas_kernels.ops.hybrid_attention.state import per_head
from pallas_kernels.pipeline import Kernel, Task, stages_that_fit
from pallas_kernels.tiles import LOG2E, Tile

BLOCK = 64  # tokens: the window that the kernel is made for, and the rows of a tile


# Rows of a matrix whose sum is a float32 vector: a large and a small half, then zeros, because the
# tensor cores take 8 rows at least.
HALVES = 8


class Statistics(NamedTuple):
    """What the backward pass needs of the forward one, per query."""

    den: Float[Array, "b h l"]
    top: Float[Array, "b h l"]  # largest score of the window, times log2(e)


def forward(
    x: Operands, rule: Rule, *, interpret: bool
) -> tuple[Float[Array, "b l h p"], Statistics]:
    """The mixture, for whole blocks and sizes that there are tiles for.

    Args:
      x: arrays whose length is a multiple of BLOCK and whose sizes are multiples of 64; the factors
        are [b, h].
      rule: a terrace of BLOCK.
      interpret: run in the interpreter.
    """
    k_sums = far_totals(per_head(x.phi_k, x.q.shape[2])) + x.k_sum[:, :, None]
    inputs = x._asdict() | {"kv": x.kv.astype(x.q.dtype), "k_sum": _halves(k_sums, x.q.dtype)}
    results = _kernel(x, rule, interpret)(**inputs)
    return results["y"], Statistics(results["den"][0], results["top"][0])


def far_totals(
    x: Float[Array, "b h l f"], *, reverse: bool = False
) -> Float[Array, "b h blocks f"]:
    """For each block the sum over all tokens of blocks two or more before it; in reverse, after."""
    b, h, length, f = x.shape
    sums = x.reshape(b, h, length // BLOCK, BLOCK, f).sum(3)
    sums = jnp.pad(sums, [(0, 0), (0, 0), (0, 2) if reverse else (2, 0), (0, 0)])
    kept = slice(2, None) if reverse else slice(None, -2)
    return lax.cumsum(sums[:, :, kept], axis=2, reverse=reverse)


def _kernel(x: Operands, rule: Rule, interpret: bool) -> Kernel:
    (batch, length, heads, dim), dtype = x.q.shape, x.q.dtype
    features, values = x.phi_q.shape[3], x.v.shape[3]
    kv_group, phi_group = heads // x.k.shape[2], heads // x.phi_k.shape[2]
    # The sum is made of tiles of 64 features; their numbers, and their names in shared memory.
    parts = [(f, f"sum{f}") for f in range(features // BLOCK)]

    def columns(task: Task) -> Any:
        return pl.ds(task.at.columns * BLOCK, BLOCK)

    def load(task: Task, i: Any) -> dict[str, Any]:
        b, h = task.at.batch, task.at.head
        own, previous = pl.ds(i * BLOCK, BLOCK), pl.ds(jnp.maximum(i - 1, 0) * BLOCK, BLOCK)
        return {
            "q": task.gmem.q.at[b, own, h],
            "phi_q": task.gmem.phi_q.at[b, own, h],
            "k": task.gmem.k.at[b, own, h // kv_group],
            "v": task.gmem.v.at[b, own, h // kv_group, columns(task)],
            "k_before": task.gmem.k.at[b, previous, h // kv_group],
            "v_before": task.gmem.v.at[b, previous, h // kv_group, columns(task)],
            "phi_before": task.gmem.phi_k.at[b, previous, h // phi_group],
            "k_sum": task.gmem.k_sum.at[b, h, i],
        }

    def fetch(task: Task) -> dict[str, Any]:
        state = task.gmem.kv.at[task.at.batch, task.at.head]
        return {sum_: state.at[pl.ds(f * BLOCK, BLOCK), columns(task)] for f, sum_ in parts}

    def setup(task: Task) -> list[Array]:
        return [task.t.load(getattr(task.smem, sum_)).astype(jnp.float32) for _, sum_ in parts]

    def compute(task: Task, stage: Any, sums: list[Array], i: Any) -> list[Array]:
        t, shape = task.t, (BLOCK, BLOCK)
        row = task.at.batch, task.at.head
        g, linear = task.gmem.window_factor[row], task.gmem.linear_factor[row]
        task.put(**{sum_: sums[f] * linear for f, sum_ in parts})
        scores = [
            t.causal(t.mma(None, stage.q, k, trans_b=True) * (rule.scale * LOG2E), shift)
            # The block before is seen whole, and the first block has none.
            for k, shift in ((stage.k_before, jnp.where(i > 0, BLOCK, -BLOCK)), (stage.k, 0))
        ]
        top = jnp.maximum(*(t.row_max(s) for s in scores))
        acc, near = None, t.full_column(BLOCK)
        for s, v in zip(scores, (stage.v_before, stage.v), strict=True):
            p = jnp.exp2(s - t.across(top, shape))
            near += t.row_sum(p)
            acc = t.mma(acc, p.astype(dtype), v)
        # Not before: ptxas would start it early, and spill.
        far = t.row_sum(t.mma(None, stage.phi_q, stage.k_sum, trans_b=True))
        den = g * near + linear * far + rule.eps
        acc *= g
        for f, sum_ in parts:
            phi = stage.phi_q.at[:, pl.ds(f * BLOCK, BLOCK)]
            acc = t.mma(acc, phi, getattr(task.smem, sum_))
        b, h, c, own = task.at.batch, task.at.head, task.at.columns, pl.ds(i * BLOCK, BLOCK)
        task.store(
            y=(acc / t.across(den, shape), task.gmem.y.at[b, own, h, columns(task)]),
            den=(den, task.gmem.den.at[c, b, h, own]),
            top=(top, task.gmem.top.at[c, b, h, own]),
        )

        def taken_in(sums):
            before = (stage.phi_before.at[:, pl.ds(f * BLOCK, BLOCK)] for f, _ in parts)
            return [
                t.mma(s, phi, stage.v_before, trans_a=True)
                for s, phi in zip(sums, before, strict=True)
            ]

        return lax.cond(i > 0, taken_in, lambda sums: sums, sums)

    ring = {name: Tile((BLOCK, dim), dtype) for name in ("q", "k", "k_before")}
    ring |= {name: Tile((BLOCK, features), dtype) for name in ("phi_q", "phi_before")}
    ring |= {name: Tile((BLOCK, BLOCK), dtype) for name in ("v", "v_before")}
    ring["k_sum"] = Tile((HALVES, features), dtype)
    scratch = {"y": Tile((BLOCK, BLOCK), dtype)}
    scratch |= {name: Tile((BLOCK,), jnp.float32) for name in ("den", "top")}
    fetched = {sum_: Tile((BLOCK, BLOCK), dtype) for _, sum_ in parts}
    slices = values // BLOCK
    column = jax.ShapeDtypeStruct((slices, batch, heads, length), jnp.float32)
    return Kernel(
        grid={"columns": slices, "head": heads, "batch": batch},
        out={
            "y": jax.ShapeDtypeStruct((batch, length, heads, values), dtype),
            "den": column,
            "top": column,
        },
        ring=ring,
        fetched=fetched,
        fetch=fetch,
        scratch=scratch,
        loops=lambda task: ((0, length // BLOCK),),
        load=load,
        setup=setup,
        compute=compute,
        finish=lambda task, sums: None,
        consumers=1,
        stages=stages_that_fit(ring, fetched | scratch, consumers=1, most=3),
        interpret=interpret,
    )


def _halves(x: Float[Array, "*n f"], dtype: Any) -> Float[Array, "*n 8 f"]:
    """Rows in a 16-bit type whose sum is `x`, so that a product with them is exact enough."""
    high = x.astype(dtype)
    low = (x - high).astype(dtype)
    rows = jnp.stack([high, low], axis=-2)
    return jnp.pad(rows, [(0, 0)] * (x.ndim - 1) + [(0, HALVES - 2), (0, 0)])
