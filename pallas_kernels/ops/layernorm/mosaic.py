"""Dropout, residual and norm on Hopper: every row is read once, and r and y are written once.

Source: ThunderKittens, arXiv 2410.20399, `kernels/layernorm`, here with a row per warpgroup.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jaxtyping import Array, Float, Int

from pallas_kernels.dispatch import narrow
from pallas_kernels.grid import tasks_of
from pallas_kernels.ops.layernorm.mask import kept
from pallas_kernels.ops.layernorm.rows import WARPS, Cut, Rows, sums
from pallas_kernels.ops.layernorm.xla import Setting
from pallas_kernels.pipeline import Kernel, Task, stages_that_fit

_LARGEST_DIM = 4096
_SMS = 132  # streaming multiprocessors of an H100


@dataclass(frozen=True)
class Config:
    """How the rows are shared out: a consumer works on `rows` of them at a time."""

    rows: int
    consumers: int
    stages: int = 4  # at most
    blocks: int = _SMS  # at most: blocks of threads that share the rows of a batch

    @property
    def block(self) -> int:
        """Rows of a stage."""
        return self.rows * self.consumers


def config_for(n: int, dim: int, most_rows: int = 4) -> Config:
    """Up to 32 entries of a thread in each stream of rows, and work for all blocks.

    At least two rows a block: the random words of one would be too short to copy.
    """
    rows = most_rows if dim <= 1024 else max(1, most_rows * 1024 // dim)
    consumers = 4 if dim <= 1024 else 2
    while consumers > 1 and rows * consumers > 2 and n < _SMS * rows * consumers:
        consumers //= 2
    return Config(rows, consumers)


def unfit(x: Array) -> str | None:
    """Why the kernels cannot take this input; None if they can."""
    if x.shape[-1] > _LARGEST_DIM:
        return f"it takes up to {_LARGEST_DIM} dims; got {x.shape[-1]}"
    return narrow(x)


def forward(
    setting: Setting,
    x: Float[Array, "b n dim"],
    weight: Float[Array, "dim"],
    bias: Float[Array, "dim"] | None,
    residual: Float[Array, "b n dim"] | None,
    words: Int[Array, "b n 2"] | None,
    *,
    config: Config | None = None,
    interpret: bool = False,
) -> tuple[Float[Array, "b n dim"], Float[Array, "b n dim"]]:
    """y and r; without residual and dropout r is x."""
    n, dim = x.shape[1:]
    cut, config = Cut(dim), config or config_for(n, dim)
    inputs = streams(cut, config, words, x=x, residual=residual)
    vectors = {"weight": weight} | ({} if bias is None else {"bias": bias})
    shape = inputs["x"].shape
    outputs = ("y",) if residual is None and words is None else ("y", "total")

    def where(task: Task, ref: Any, i: Any, r: int) -> Any:
        return ref.at[task.at.batch, i * config.block + task.consumer * config.rows + r]

    def compute(task: Task, stage: Any, carry: tuple, number: Any) -> tuple:
        i = block_number(task, number, config, shape[1])
        totals = []
        for r in range(config.rows):
            at = task.consumer * config.rows + r
            total = cut.load(task, stage.x.at[at])
            if words is not None:
                total = dropped(task, setting, cut, stage, at, total)
            if residual is not None:
                total = total + cut.load(task, stage.residual.at[at])
            totals.append(total.astype(x.dtype).astype(jnp.float32))
        centered = centre(task, setting, cut, totals)
        squares = sums(task, task.smem.parts.at[1], [[jnp.square(x)] for x in centered])
        w = cut.load(task, task.smem.weight)
        results = {}
        for r, (total, row, (square,)) in enumerate(zip(totals, centered, squares, strict=True)):
            y = row * lax.rsqrt(square / cut.dim + setting.eps) * w
            if bias is not None:
                y = y + cut.load(task, task.smem.bias)
            results[f"y{r}"] = y, where(task, task.gmem.y, i, r)
            if "total" in outputs:
                results[f"total{r}"] = total, where(task, task.gmem.total, i, r)
        task.store(**results)
        return carry

    scratch = {
        f"{name}{r}": Rows(cut.shape, x.dtype) for name in outputs for r in range(config.rows)
    }
    results = kernel(
        cut,
        config,
        inputs,
        vectors,
        compute,
        scratch,
        interpret,
        out={name: jax.ShapeDtypeStruct(shape, x.dtype) for name in outputs},
        setup=lambda task: (),
        finish=lambda task, carry: None,
    )
    y, total = (results.get(name) for name in ("y", "total"))
    return cut.restored(y)[:, :n], x if total is None else cut.restored(total)[:, :n]


def streams(
    cut: Cut, config: Config, words: Array | None, **arrays: Array | None
) -> dict[str, Array]:
    """The arrays that are there, rows of zeros added up to whole stages."""
    more = -next(x for x in arrays.values() if x is not None).shape[1] % config.block
    pad = lambda x: jnp.pad(x, ((0, 0), (0, more), (0, 0))) if more else x  # noqa: E731
    inputs = {name: cut.arranged(pad(x)) for name, x in arrays.items() if x is not None}
    if words is not None:
        inputs["words"] = pad(words).reshape(words.shape[0], -1)
    return inputs


def kernel(
    cut: Cut,
    config: Config,
    inputs: dict[str, Array],
    vectors: dict[str, Array],
    compute: Any,
    scratch: dict[str, Rows],
    interpret: bool,
    **rest: Any,
) -> dict[str, Array]:
    """Run a kernel that streams rows past a few vectors (weight, bias)."""
    batch, n = next(iter(inputs.values())).shape[:2]
    block = config.block
    parts = n_parts(n, config)

    def load(task: Task, number: Any) -> dict[str, Any]:
        i = block_number(task, number, config, n)
        lengths = {name: 2 * block if name == "words" else block for name in inputs}
        return {
            name: getattr(task.gmem, name).at[task.at.batch, pl.ds(i * length, length)]
            for name, length in lengths.items()
        }

    ring = {
        name: Rows((2 * block,) if name == "words" else (block, *cut.shape), x.dtype)
        for name, x in inputs.items()
    }
    fetched = {name: Rows(cut.shape, x.dtype) for name, x in vectors.items()}
    scratch = scratch | {"parts": Rows((2, config.rows, 3, WARPS), jnp.float32)}
    own = fetched | scratch
    return Kernel(
        grid={"batch": batch, "part": parts},
        ring=ring,
        loops=lambda task: ((0, tasks_of(task.at.part, parts, n // block)),),
        load=load,
        compute=compute,
        fetched=fetched,
        fetch=lambda task: {name: getattr(task.gmem, name) for name in vectors},
        scratch=scratch,
        consumers=config.consumers,
        stages=stages_that_fit(ring, own, consumers=config.consumers, most=config.stages),
        interpret=interpret,
        **rest,
    )(**inputs, **{name: cut.arranged(x) for name, x in vectors.items()})


def n_parts(n: int, config: Config) -> int:
    """Tasks that the rows of a batch are shared out to, a stage each in turn."""
    return min(n // config.block, config.blocks)


def block_number(task: Task, number: Any, config: Config, n: int) -> Any:
    """The `number`-th block of rows of a task."""
    return task.at.part + number * n_parts(n, config)


def dropped(task: Task, setting: Setting, cut: Cut, stage: Any, at: Any, x: Array) -> Array:
    """Row `at` of the stage with its dropped entries at 0, the others grown."""
    keep = kept(stage.words[2 * at], stage.words[2 * at + 1], cut.columns(task), setting.dropout)
    return jnp.where(keep, x * (1 / (1 - setting.dropout)), 0.0)


def centre(task: Task, setting: Setting, cut: Cut, rows: list[Array]) -> list[Array]:
    """Rows less their means; for RMS norm as they are."""
    if not setting.center:
        return rows
    means = sums(task, task.smem.parts.at[0], [[x] for x in rows])
    return [cut.real(task, x - mean / cut.dim) for x, (mean,) in zip(rows, means, strict=True)]
