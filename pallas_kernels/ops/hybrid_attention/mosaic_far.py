"""The sums of far blocks on Hopper, forward or backward in time: all derivatives of the far part.

With S_n the initial state plus b_j c_j^T summed over all tokens j that lie two blocks or more
before the block of n (after it, in reverse), the kernel gives out_n = S_n^T a_n. One warpgroup
holds 64 columns of S in float32 registers, with a 16-bit copy in shared memory for the tensor
cores.

Source: derived; the far part of arXiv 2410.10254, Equation 7, is linear in each of its factors.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jaxtyping import Array, Float

from pallas_kernels.pipeline import Kernel, Task, stages_that_fit
from pallas_kernels.tiles import Tile

BLOCK = 64  # tokens


def far_sums(
    a: Float[Array, "b l a_heads n"],
    b: Float[Array, "b l b_heads n"],
    c: Float[Array, "b l c_heads m"],
    state: Float[Array, "b h n m"] | None = None,
    *,
    reverse: bool = False,
    interpret: bool,
) -> Float[Array, "b l h m"]:
    """out_n = (state + sum over far j of b_j c_j^T)^T a_n, for whole blocks and tiles of 64.

    The heads are the most that any of the three has; the others share theirs.
    """
    heads = max(x.shape[2] for x in (a, b, c))
    if state is None:
        state = jnp.zeros((a.shape[0], heads, a.shape[3], c.shape[3]), a.dtype)
    inputs = {"a": a, "b": b, "c": c, "state": state.astype(a.dtype)}
    return _kernel(inputs, heads, reverse, interpret)(**inputs)["out"]


def _kernel(inputs: dict[str, jax.Array], heads: int, reverse: bool, interpret: bool) -> Kernel:
    (batch, length, _, n), dtype = inputs["a"].shape, inputs["a"].dtype
    m, group = inputs["c"].shape[3], {name: heads // inputs[name].shape[2] for name in "abc"}
    blocks = length // BLOCK
    # Tiles of 64 rows of the sum: their numbers, and their names in shared memory.
    parts = [(f, f"sum{f}") for f in range(n // BLOCK)]

    def columns(task: Task) -> Any:
        return pl.ds(task.at.columns * BLOCK, BLOCK)

    def rows(i: Any) -> Any:
        return pl.ds((blocks - 1 - i if reverse else i) * BLOCK, BLOCK)

    def load(task: Task, i: Any) -> dict[str, Any]:
        batch, head, before = task.at.batch, task.at.head, rows(jnp.maximum(i - 1, 0))
        return {
            "a": task.gmem.a.at[batch, rows(i), head // group["a"]],
            "b": task.gmem.b.at[batch, before, head // group["b"]],
            "c": task.gmem.c.at[batch, before, head // group["c"], columns(task)],
        }

    def fetch(task: Task) -> dict[str, Any]:
        state = task.gmem.state.at[task.at.batch, task.at.head]
        return {sum_: state.at[pl.ds(f * BLOCK, BLOCK), columns(task)] for f, sum_ in parts}

    def setup(task: Task) -> list[Array]:
        return [task.t.load(getattr(task.smem, sum_)).astype(jnp.float32) for _, sum_ in parts]

    def compute(task: Task, stage: Any, sums: list[Array], i: Any) -> list[Array]:
        task.put(**{sum_: sums[f] for f, sum_ in parts})
        out = None
        for f, sum_ in parts:
            a = stage.a.at[:, pl.ds(f * BLOCK, BLOCK)]
            out = task.t.mma(out, a, getattr(task.smem, sum_))
        where = task.gmem.out.at[task.at.batch, rows(i), task.at.head, columns(task)]
        task.store(out=(out, where))
        return taken_in(task, stage.b, stage.c, sums, i > 0)

    ring = {name: Tile((BLOCK, n), dtype) for name in ("a", "b")}
    ring["c"] = Tile((BLOCK, BLOCK), dtype)
    fetched = {sum_: Tile((BLOCK, BLOCK), dtype) for _, sum_ in parts}
    scratch = {"out": Tile((BLOCK, BLOCK), dtype)}
    return Kernel(
        grid={"columns": m // BLOCK, "head": heads, "batch": batch},
        out={"out": jax.ShapeDtypeStruct((batch, length, heads, m), dtype)},
        ring=ring,
        fetched=fetched,
        fetch=fetch,
        scratch=scratch,
        loops=lambda task: ((0, blocks),),
        load=load,
        setup=setup,
        compute=compute,
        finish=lambda task, sums: None,
        consumers=1,
        stages=stages_that_fit(ring, fetched | scratch, consumers=1, most=4),
        interpret=interpret,
    )


def taken_in(task: Task, b: Any, c: Any, sums: list[Array], there: Any) -> list[Array]:
    """The sums with one more block's b^T c, where there is such a block."""

    def more(sums: list[Array]) -> list[Array]:
        tiles = (b.at[:, pl.ds(f * BLOCK, BLOCK)] for f in range(len(sums)))
        return [task.t.mma(s, x, c, trans_a=True) for s, x in zip(sums, tiles, strict=True)]

    return lax.cond(there, more, lambda sums: sums, sums)
