"""What the kernels read: whole tiles, and which blocks of the other side a block has to visit."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pallas_kernels.ops.attention.masking import Setting
from pallas_kernels.pipeline import Task

DIMS = (64, 128)  # head sizes that a kernel has tiles for


def whole(
    x: Float[Array, "b n heads dim"], block: int
) -> Float[Array, "b blocks*block heads tile_dim"]:
    """Zeros added up to whole blocks, and to a head size that there are tiles for."""
    dim = next(size for size in DIMS if size >= x.shape[-1])
    return _padded(x, {1: -x.shape[1] % block, 3: dim - x.shape[3]})


def whole_rows(x: Array, block: int) -> Array:
    """A number per row, [..., n], with zeros added up to whole blocks."""
    return _padded(x, {x.ndim - 1: -x.shape[-1] % block})


def score_scale(setting: Setting, q: Float[Array, "... dim"]) -> float:
    """The factor of the scores."""
    return q.shape[-1] ** -0.5 if setting.scale is None else setting.scale


def meetings(
    ids: Int[Array, "b l"], others: Int[Array, "b s"], block: int, other_block: int
) -> Int[Array, "b blocks 2"]:
    """For each block of tokens, start and stop of the other side's blocks that it has to visit.

    Two blocks may share a segment if their ranges of ids overlap: exact for documents in a row,
    and never too few for ids in any order. (0, 0) where there is none.
    """
    low, high = _extremes(ids, block)
    other_low, other_high = _extremes(others, other_block)
    meet = (low[:, :, None] <= other_high[:, None, :]) & (other_low[:, None, :] <= high[:, :, None])
    start = meet.argmax(-1)
    stop = meet.shape[-1] - meet[:, :, ::-1].argmax(-1)
    span = jnp.stack([start, stop], -1).astype(jnp.int32)
    return jnp.where(meet.any(-1)[:, :, None], span, 0)


def block_of_queries(task: Task, setting: Setting, blocks: int) -> Any:
    """The block of queries of a task: under a causal mask the longest first."""
    return blocks - 1 - task.at.block if setting.causal else task.at.block


def tiles_to_visit(
    task: Task, block: Any, span: tuple[Any, Any], n: int, tile: int
) -> tuple[Any, Any]:
    """Start and stop of the tiles of the other side that a block of this task has to visit.

    Args:
      task: at hand.
      block: number of its block.
      span: the tokens that reach and order leave, see `masking.seen_keys`.
      n: how many tokens there are on the other side.
      tile: how many of them a tile has.
    """
    start, stop = (jnp.clip(end, 0, n) for end in span)
    start, stop = start // tile, (stop + tile - 1) // tile
    if hasattr(task.gmem, "visits"):
        visits = task.gmem.visits.at[task.at.batch, block]
        return jnp.maximum(start, visits[0]), jnp.minimum(stop, visits[1])
    return start, stop


def _extremes(ids: Int[Array, "b n"], block: int) -> tuple[Array, Array]:
    """Least and largest id of each block."""
    ids = jnp.pad(ids, ((0, 0), (0, -ids.shape[1] % block)), mode="edge")
    blocks = ids.reshape(ids.shape[0], -1, block)
    return blocks.min(-1), blocks.max(-1)


def _padded(x: Array, more: dict[int, int]) -> Array:
    if not any(more.values()):
        return x
    return jnp.pad(x, [(0, more.get(axis, 0)) for axis in range(x.ndim)])
