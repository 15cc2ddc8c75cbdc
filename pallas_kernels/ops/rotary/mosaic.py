"""Rotary embedding on Hopper: the angles of 64 places are read once and turn all heads.

The two halves of a head are tiles of their own, so that a thread finds a pair in its registers.
Source: ThunderKittens, arXiv 2410.20399, `kernels/rotary`.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array, Float

from pallas_kernels.dispatch import narrow
from pallas_kernels.pipeline import Kernel, Task, stages_that_fit
from pallas_kernels.tiles import Tile

_ROWS = 64  # places of a consumer's tile
_UNIT = 16  # 16-bit numbers of the narrowest tile
_WIDEST = 64  # pairs of a head: their angles and both halves take 128 registers a thread
_SMS = 132  # streaming multiprocessors of an H100


@dataclass(frozen=True)
class Config:
    """How the work is shared out; by default for every place to have enough of it."""

    consumers: int = 2
    stages: int = 4  # at most
    groups: int | None = None  # of heads, each with blocks of its own


def unfit(x: Array, cos: Array) -> str | None:
    """Why the kernel cannot take these inputs; None if it can."""
    half = cos.shape[-1]
    rest = x.shape[-1] - 2 * half
    if half % _UNIT or half > _WIDEST:
        return f"its tables are {_UNIT}, 32, 48 or {_WIDEST} wide; got {half}"
    if rest % _UNIT:
        return f"what a head has beside the pairs must be a multiple of {_UNIT}; got {rest}"
    return narrow(x)


def rotate(
    x: Float[Array, "b l heads dim"],
    cos: Float[Array, "#b l half"],
    sin: Float[Array, "#b l half"],
    *,
    config: Config = Config(),
    interpret: bool = False,
) -> Float[Array, "b l heads dim"]:
    """Every head of a place turned by the place's angles; rounded once."""
    length = x.shape[1]
    consumers = 1 if length <= _ROWS else config.consumers
    block = _ROWS * consumers
    x, cos, sin = (_padded(a, block) for a in (x, cos, sin))
    batch, padded, heads, dim = x.shape
    places = padded // block
    groups = config.groups or min(heads, -(-_SMS // (batch * places)))
    each, half = -(-heads // groups), cos.shape[-1]
    columns = {"x1": (0, half), "x2": (half, half), "rest": (2 * half, dim - 2 * half)}
    columns = {name: pl.ds(*span) for name, span in columns.items() if span[1]}

    def rows(task: Task, consumer: Any = 0, length: int = block) -> Any:
        return pl.ds(task.at.place * block + consumer * _ROWS, length)

    def load(task: Task, i: Any) -> dict[str, Any]:
        head = task.at.group * each + i
        return {
            name: task.gmem.x.at[task.at.batch, rows(task), head, span]
            for name, span in columns.items()
        }

    def fetch(task: Task) -> dict[str, Any]:
        table = task.at.batch if cos.shape[0] > 1 else 0
        mine = rows(task, task.consumer, _ROWS)
        return {name: getattr(task.gmem, name).at[table, mine] for name in ("cos", "sin")}

    def angles(task: Task) -> tuple[Array, Array]:
        tables = (task.t.load(task.smem.cos), task.t.load(task.smem.sin))
        return tuple(table.astype(jnp.float32) for table in tables)

    def compute(task: Task, stage: Any, carry: tuple[Array, Array], i: Any) -> tuple[Array, Array]:
        cos, sin = carry
        mine, where = pl.ds(task.consumer * _ROWS, _ROWS), rows(task, task.consumer, _ROWS)
        tiles = {name: task.t.load(getattr(stage, name).at[mine]) for name in columns}
        x1, x2 = (tiles[name].astype(jnp.float32) for name in ("x1", "x2"))
        tiles |= {"x1": x1 * cos - x2 * sin, "x2": x2 * cos + x1 * sin}
        head = task.at.group * each + i
        task.store(
            **{
                name: (tile, task.gmem.y.at[task.at.batch, where, head, columns[name]])
                for name, tile in tiles.items()
            }
        )
        return carry

    ring = {name: Tile((block, span.size), x.dtype) for name, span in columns.items()}
    fetched = {name: Tile((_ROWS, half), cos.dtype) for name in ("cos", "sin")}
    scratch = {name: Tile((_ROWS, span.size), x.dtype) for name, span in columns.items()}
    stages = stages_that_fit(ring, fetched | scratch, consumers=consumers, most=config.stages)
    y = Kernel(
        grid={"batch": batch, "place": places, "group": groups},
        out={"y": jax.ShapeDtypeStruct(x.shape, x.dtype)},
        ring=ring,
        loops=lambda task: ((0, jnp.minimum(each, heads - task.at.group * each)),),
        load=load,
        setup=angles,
        compute=compute,
        finish=lambda task, carry: None,
        fetched=fetched,
        fetch=fetch,
        scratch=scratch,
        consumers=consumers,
        stages=stages,
        interpret=interpret,
    )(x=x, cos=cos, sin=sin)["y"]
    return y[:, :length]


def _padded(x: Array, block: int) -> Array:
    """Places added up to whole blocks."""
    more = -x.shape[1] % block
    return jnp.pad(x, ((0, 0), (0, more), *((0, 0),) * (x.ndim - 2))) if more else x
