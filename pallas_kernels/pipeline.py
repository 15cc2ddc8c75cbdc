"""Level 2, the block of threads: load, compute, store, finish, with the plumbing done once.

One warpgroup (128 threads) is the producer: it keeps a ring of stages full, each a set of tiles, by
asynchronous copies from global memory. The others, the consumers, compute on the tiles as they
arrive. The author of a kernel says where a stage's tiles lie (`load`), what to do with them
(`compute`) and what to keep (`finish`, `Task.store`); barriers, registers and the walk through the
tasks are the template's.

    producer: for each task, for each step: wait until the stage is empty, copy into it
    consumer: for each task: fetch its own tiles, set up;
              for each step: wait until the stage is full, compute, release the stage; finish

Source: ThunderKittens, arXiv 2410.20399, Section 3.2 (the LCSF template).
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from pallas_kernels import _compat
from pallas_kernels.grid import tasks_of, unravel
from pallas_kernels.tiles import Tile, Tiles

# Registers of a streaming multiprocessor per thread of a warpgroup: 65536 / 128. A thread can have
# 255, in steps of 8.
_REGISTERS, _MOST_REGISTERS = 512, 240
# Shared memory of a block on H100; what reductions and barriers take of it; alignment of a tile.
_SHARED_BYTES, _SPARE_BYTES, _ALIGNED = 232448, 2048 + 1024, 1024


@dataclass(frozen=True)
class Task:
    """What the functions of a kernel see: the piece of work at hand and the memory around it."""

    t: Tiles
    at: SimpleNamespace  # coordinates in the grid, by name
    gmem: SimpleNamespace  # inputs and outputs in global memory, by name
    smem: SimpleNamespace | None = None  # this consumer's own tiles, by name; not the producer's
    consumer: Any = None  # number of this consumer

    def put(self, **values: jax.Array) -> None:
        """Write values to this consumer's own tiles of these names, for its products to read.

        Always write scratch tiles so, not by assignment. The wait before is for a `store` that may
        still read them, and brings the four warps together: one that is ahead could overwrite what
        the products of the others still read, which the interpreter does not see.
        """
        plgpu.wait_smem_to_gmem(0, wait_read_only=True)
        for name, value in values.items():
            tile = getattr(self.smem, name)
            tile[...] = value.astype(tile.dtype)
        self.t.commit()

    def store(self, **outputs: tuple[jax.Array, Any]) -> None:
        """Write values to global memory through this consumer's tiles of the same names.

        The copies go on in the background; the next `store` waits until they have read the tiles.

        Args:
          **outputs: by name of the tile, the value and where it goes in global memory.
        """
        self.put(**{name: value for name, (value, _) in outputs.items()})
        for name, (_, where) in outputs.items():
            plgpu.copy_smem_to_gmem(getattr(self.smem, name), where)


@dataclass(frozen=True)
class Kernel:
    """A warp-specialised Hopper kernel, made of its load, compute and finish functions.

    Call it with the inputs by name; the results come back by name.

    Raises:
      ValueError: for a number that no kernel can have or tiles that do not fit in shared memory;
        when called, for what `load` or `fetch` give that are not the tiles.
    """

    # Extents of the space of tasks, by name of the coordinate.
    grid: Mapping[str, int]
    # Types of the results, by name.
    out: Mapping[str, jax.ShapeDtypeStruct]
    # Tiles of one stage, read by all consumers, by name.
    ring: Mapping[str, Tile]
    # loops(task): bounds (low, high) of the nested loops over steps; `i` has one index per loop.
    loops: Callable[[Task], tuple[tuple[Any, Any], ...]]
    # load(task, *i): where the contents of each tile of the ring lie at step i, by name.
    load: Callable[..., Mapping[str, Any]]
    # setup(task): what a consumer carries through the steps, a tree of arrays.
    setup: Callable[[Task], Any]
    # compute(task, stage, carry, *i) -> carry; the stage's tiles are its attributes.
    compute: Callable[..., Any]
    # finish(task, carry), after the last step.
    finish: Callable[[Task, Any], None]
    # Tiles of each consumer's own, copied at the beginning of a task from where fetch(task) says.
    fetched: Mapping[str, Tile] = field(default_factory=dict)
    fetch: Callable[[Task], Mapping[str, Any]] | None = None
    # More tiles of each consumer's own: for `Task.store`, and scratch.
    scratch: Mapping[str, Tile] = field(default_factory=dict)
    # Makes the kernel persistent: block b of so many takes the tasks b, b + blocks, ...
    blocks: int | None = None
    # order(number): coordinates of a task of a persistent kernel; the last changes fastest.
    order: Callable[[Any], Mapping[str, Any]] | None = None
    consumers: int = 2
    stages: int = 2
    producer_registers: int = 32  # of each thread; the consumers share the rest
    # Find the consumers' own tiles anew at every step. The compiler would keep the addresses of
    # all of them in registers, which a kernel of many tiles has not got to spare.
    readdress: bool = False
    interpret: bool = False  # run in the interpreter, on any platform

    def __post_init__(self):
        for name, most in (("stages", 8), ("consumers", 7)):
            if not 1 <= getattr(self, name) <= most:
                raise ValueError(f"{name} must be in [1, {most}]; got {getattr(self, name)}")
        for name, extent in (*self.grid.items(), ("blocks", self.blocks)):
            if extent is not None and extent < 1:
                raise ValueError(f"{name} must be at least 1; got {extent}")
        if self.order is not None and self.blocks is None:
            raise ValueError("order needs blocks: only a persistent kernel chooses its order")
        if self.producer_registers % 8 or not 24 <= self.producer_registers <= _MOST_REGISTERS:
            raise ValueError(
                f"producer_registers must be a multiple of 8 in [24, {_MOST_REGISTERS}];"
                f" got {self.producer_registers}"
            )
        if not self.ring:
            raise ValueError("ring must have at least one tile; got none")
        if self.fetched and self.fetch is None:
            raise ValueError(f"fetched tiles need fetch; got none for {', '.join(self.fetched)}")
        if twice := set(self.fetched) & set(self.scratch):
            raise ValueError(f"a tile must be in fetched or in scratch; in both: {sorted(twice)}")
        stages_that_fit(
            self.ring,
            {**self.fetched, **self.scratch},
            consumers=self.consumers,
            least=self.stages,
            most=self.stages,
        )

    def __call__(self, **inputs: jax.Array) -> dict[str, jax.Array]:
        """The results, by name."""
        names = (*inputs, *self.out)

        def entry(*refs: Any) -> None:
            gmem = SimpleNamespace(**dict(zip(names, refs, strict=True)))
            pl.run_scoped(
                lambda **smem: _body(self, gmem, SimpleNamespace(**smem)),
                collective_axes="thread",
                **self._memory(),
            )

        results = plgpu.kernel(
            entry,
            out_type=tuple(self.out.values()),
            grid=(self._blocks,),  # of one axis, which alone may be longer than 65535
            grid_names=("block",),
            num_threads=self.consumers + 1,
            thread_name="thread",
            compiler_params=plgpu.CompilerParams(
                approx_math=True, lowering_semantics=plgpu.LoweringSemantics.Warpgroup
            ),
            interpret=_compat.interpret_params(self.interpret),
        )(*inputs.values())
        return dict(zip(self.out, results, strict=True))

    @property
    def tasks(self) -> int:
        """How many tasks there are."""
        return math.prod(self.grid.values())

    @property
    def _blocks(self) -> int:
        return self.tasks if self.blocks is None else min(self.blocks, self.tasks)

    def _memory(self) -> dict[str, Any]:
        """Shared memory and barriers: `full` counts copies, `empty` counts consumers."""
        own = {**self.fetched, **self.scratch}
        memory = {
            "ring": {name: tile.allocate(self.stages) for name, tile in self.ring.items()},
            "own": {name: tile.allocate(self.consumers) for name, tile in own.items()},
            "full": plgpu.Barrier(num_arrivals=len(self.ring), num_barriers=self.stages),
            "empty": plgpu.Barrier(num_arrivals=self.consumers, num_barriers=self.stages),
        }
        if self.fetched:
            arrivals = len(self.fetched)
            memory["fetched"] = plgpu.Barrier(num_arrivals=arrivals, num_barriers=self.consumers)
        return memory


def stages_that_fit(
    ring: Mapping[str, Tile],
    own: Mapping[str, Tile],
    *,
    consumers: int = 2,
    least: int = 1,
    most: int = 4,
) -> int:
    """The depth of a ring, up to `most` stages, that the shared memory of one block holds.

    Args:
      ring: tiles of one stage.
      own: tiles of each consumer.
      consumers: how many consumers.
      least: stages that are needed.
      most: the depth beyond which nothing is gained.

    Raises:
      ValueError: where fewer than `least` stages fit, with the bytes.
    """

    def taken(tiles: Mapping[str, Tile], copies: int) -> int:
        return sum(-(-copies * tile.bytes // _ALIGNED) * _ALIGNED for tile in tiles.values())

    room = _SHARED_BYTES - _SPARE_BYTES - taken(own, consumers)
    stages = max((n for n in range(1, most + 1) if taken(ring, n) <= room), default=0)
    if stages < least:
        stage = "1 stage" if least == 1 else f"{least} stages"
        raise ValueError(
            f"{stage} of the ring must fit in {room} bytes, what the consumers' own tiles leave of"
            f" shared memory; got {taken(ring, least)} bytes"
        )
    return stages


def _body(kernel: Kernel, gmem: SimpleNamespace, smem: SimpleNamespace) -> None:
    """Send each thread (a warpgroup) to its part."""
    thread = lax.axis_index("thread")
    t = Tiles("interpret" if kernel.interpret else "mosaic")

    @pl.when(thread == kernel.consumers)
    def _():
        plgpu.set_max_registers(kernel.producer_registers, action="decrease")
        _produce(kernel, lambda at: Task(t, at, gmem), smem)

    @pl.when(thread < kernel.consumers)
    def _():
        share = (_REGISTERS - kernel.producer_registers) // kernel.consumers // 8 * 8
        plgpu.set_max_registers(min(share, _MOST_REGISTERS), action="increase")

        def task_at(at: SimpleNamespace, position: Any = 0) -> Task:
            number = thread + _zero(position) if kernel.readdress else thread
            mine = {name: ref.at[number] for name, ref in smem.own.items()}
            return Task(t, at, gmem, SimpleNamespace(**mine), thread)

        _consume(kernel, task_at, smem)


def _produce(kernel: Kernel, task_at: Callable, smem: SimpleNamespace) -> None:
    """Keep the ring full, through all tasks of this block."""

    def run(at: SimpleNamespace, position: Any) -> Any:
        task = task_at(at)

        def step(position: Any, *i: Any) -> Any:
            stage = lax.rem(position, jnp.int32(kernel.stages))

            @pl.when(position >= kernel.stages)
            def _():
                plgpu.barrier_wait(smem.empty.at[stage])

            for name, source in _sources("load", kernel.load(task, *i), kernel.ring).items():
                plgpu.copy_gmem_to_smem(source, smem.ring[name].at[stage], smem.full.at[stage])
            return position + 1

        return _nest(kernel.loops(task), step, position)

    position = _each_task(kernel, run)
    # Every release must have been waited for before the barriers go.
    for stage in range(kernel.stages):

        @pl.when(stage < position)
        def _(stage=stage):
            plgpu.barrier_wait(smem.empty.at[stage])


def _consume(kernel: Kernel, task_at: Callable, smem: SimpleNamespace) -> None:
    """Compute on the stages as they arrive, through all tasks of this block."""

    def run(at: SimpleNamespace, position: Any) -> Any:
        task = task_at(at)
        if kernel.fetched:
            ready = smem.fetched.at[task.consumer]
            plgpu.wait_smem_to_gmem(0, wait_read_only=True)  # the last task may still store
            for name, source in _sources("fetch", kernel.fetch(task), kernel.fetched).items():
                plgpu.copy_gmem_to_smem(source, getattr(task.smem, name), ready)
            plgpu.barrier_wait(ready)

        def step(state: tuple[Any, Any], *i: Any) -> tuple[Any, Any]:
            carry, position = state
            stage = lax.rem(position, jnp.int32(kernel.stages))
            plgpu.barrier_wait(smem.full.at[stage])
            tiles = SimpleNamespace(**{name: ref.at[stage] for name, ref in smem.ring.items()})
            carry = kernel.compute(task_at(at, position), tiles, carry, *i)
            task.t.release(smem.empty.at[stage])
            return carry, position + 1

        carry, position = _nest(kernel.loops(task), step, (kernel.setup(task), position))
        kernel.finish(task, carry)
        return position

    _each_task(kernel, run)
    plgpu.wait_smem_to_gmem(0)


def _each_task(kernel: Kernel, run: Callable[[SimpleNamespace, Any], Any]) -> Any:
    """`run(coordinates, position)` for every task of this block; the last position in the ring."""
    start = _zero(lax.axis_index("thread")) if kernel.readdress else jnp.int32(0)
    block = lax.axis_index("block")

    def one(n: Any, position: Any) -> Any:
        number = block + n * kernel._blocks
        if kernel.order is not None:
            return run(SimpleNamespace(**kernel.order(number)), position)
        at = unravel(number, tuple(kernel.grid.values()))
        return run(SimpleNamespace(**dict(zip(kernel.grid, at, strict=True))), position)

    if kernel.blocks is None:
        return one(0, start)
    return lax.fori_loop(0, tasks_of(block, kernel._blocks, kernel.tasks), one, start)


def _sources(
    function: str, sources: Mapping[str, Any], tiles: Mapping[str, Tile]
) -> Mapping[str, Any]:
    """What a function gave, once it is one source per tile, of its shape and type.

    A copy that never comes would be waited for until the end of time.
    """
    if set(sources) != set(tiles):
        said, wanted = (", ".join(names) or "none" for names in (sources, tiles))
        raise ValueError(f"{function} must give sources of the tiles {wanted}; got {said}")
    for name, tile in tiles.items():
        wanted = f"{jnp.dtype(tile.dtype)}{list(tile.shape)}"
        got = f"{jnp.dtype(sources[name].dtype)}{list(sources[name].shape)}"
        if got != wanted:
            raise ValueError(f"{function}: the source of {name} must be {wanted}; got {got}")
    return sources


def _zero(x: Any) -> Any:
    """0 for any int32 x >= 0; the compiler does not know so, and makes anew what depends on x."""
    return lax.shift_right_arithmetic(x, jnp.int32(31))


def _nest(bounds: tuple[tuple[Any, Any], ...], step: Callable, state: Any, *i: Any) -> Any:
    """Nested loops over `bounds`, the last one innermost: `state = step(state, *i)`."""
    if not bounds:
        return step(state, *i)
    (low, high), *inner = bounds
    return lax.fori_loop(low, high, lambda j, s: _nest(tuple(inner), step, s, *i, j), state)
