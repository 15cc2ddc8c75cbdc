"""The decaying scan on Hopper, forward or in reverse time: chunks of 64 tokens, state in registers.

Each consumer warpgroup carries the state S of one stream, see `streams`. Per chunk, with A the
running sum of the log decay from the chunk's start and E its end:

    W_ts = exp(A_t - A_s) (q_t . k_s) for s <= t       o_t = sum_s W_ts v_s + exp(A_t) q_t S
    S <- exp(E) S + sum_s k_s (exp(E - A_s) v_s)^T

In reverse the mask is transposed, and A_t - A_s, A_t and E - A_s become A_s - A_t, E - A_t and A_s.
Source: ThunderKittens, arXiv 2410.20399, released kernels `mamba2` and `linear_attention`.
"""

from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jaxtyping import Array, Float

from pallas_kernels.dispatch import narrow
from pallas_kernels.ops.linear_attention.grad import CHUNK
from pallas_kernels.ops.linear_attention.streams import (
    MOST,
    PAIR,
    WIDTH,
    by_head,
    by_stream,
    exponents,
    in_pairs,
    whole_tiles,
)
from pallas_kernels.ops.linear_attention.xla import Decays, Queries, State, States, Values
from pallas_kernels.pipeline import Kernel, Task, stages_that_fit
from pallas_kernels.tiles import Tile, Tiles

_SQUARE = (CHUNK, WIDTH)
_BLOCK = PAIR * WIDTH  # columns of the values that a block of threads works on


def refusal(q: Array, v: Array, chunk: int) -> str | None:
    """Why the kernel cannot take these inputs; None if it can."""
    if chunk != CHUNK:
        return f"its chunk is {CHUNK}; got {chunk}"
    if max(q.shape[-1], v.shape[-1]) > MOST:
        return f"its n and p are at most {MOST}; got {q.shape[-1]} and {v.shape[-1]}"
    return narrow(q, v)


class _Setting(NamedTuple):
    """What one kernel is built for."""

    batch: int
    chunks: int
    pairs: int  # of streams
    pairs_per_group: int  # that read the same queries and keys; 0: each stream has its own
    n: int
    dtype: Any
    out_dtype: Any
    scale: float
    reverse: bool
    states: bool
    interpret: bool


def scan(
    q: Queries,
    k: Queries,
    v: Values,
    log_decay: Decays,
    state: State,
    *,
    scale: float,
    reverse: bool = False,
    states: bool = False,
    out_dtype: Any = None,
    interpret: bool = False,
) -> tuple[Values, State, States | None]:
    """o, the last state and with `states` those before each chunk, as `grad.Scan` says."""
    (length, heads, p), n = v.shape[1:], q.shape[3]
    q, k, v, log_decay, state = whole_tiles(q, k, v, log_decay, state)
    batch, padded = v.shape[:2]
    halves = v.shape[3] // WIDTH
    pairs = v.shape[2] * halves // PAIR
    setting = _Setting(
        batch=batch,
        chunks=padded // CHUNK,
        pairs=pairs,
        pairs_per_group=pairs // q.shape[2],  # per head, there are twice as many groups as pairs
        n=q.shape[3],
        dtype=v.dtype,
        out_dtype=out_dtype or v.dtype,
        scale=scale,
        reverse=reverse,
        states=states,
        interpret=interpret,
    )
    results = _kernel(setting)(
        q=q.reshape(batch, padded, -1),
        k=k.reshape(batch, padded, -1),
        v=v.reshape(batch, padded, -1),
        decay=in_pairs(exponents(log_decay, reverse), halves),
        first=by_stream(state, halves),
    )
    o = results["o"].reshape(v.shape)[:, :length, :heads, :p]
    last, *befores = (
        by_head(results[name], halves)[..., :heads, :n, :p]
        for name in ("last", *(["states"] if states else []))
    )
    return o, last, befores[0] if befores else None


def _kernel(setting: _Setting) -> Kernel:
    """The kernel; a state of 128 rows is two tiles of 64, so that less is alive at once."""
    s, parts = setting, setting.n // WIDTH
    state = {f"state{j}": Tile(_SQUARE, jnp.float32) for j in range(parts)}
    rounded = {f"rounded{j}": Tile(_SQUARE, s.dtype) for j in range(parts)}
    scratch = {"kept": Tile(_SQUARE, s.dtype), **rounded}
    # A float32 output leaves through a tile that the state came in by and will leave by.
    out_tile = "state0" if s.out_dtype == jnp.float32 else "o"
    if out_tile == "o":
        scratch["o"] = Tile(_SQUARE, s.out_dtype)
    columns = s.n if s.pairs_per_group else PAIR * s.n
    ring = {
        "q": Tile((CHUNK, columns), s.dtype),
        "k": Tile((CHUNK, columns), s.dtype),
        "v": Tile((CHUNK, _BLOCK), s.dtype),
        "into": Tile((PAIR * CHUNK,), jnp.float32),
        "out_of": Tile((PAIR * CHUNK,), jnp.float32),
    }

    def place(task: Task, i: Any) -> SimpleNamespace:
        chunk = s.chunks - 1 - i if s.reverse else i
        return SimpleNamespace(chunk=chunk, tokens=pl.ds(chunk * CHUNK, CHUNK))

    def stream(task: Task) -> Any:
        return task.at.pair * PAIR + task.consumer

    def by_part(names: dict[str, Tile], ref: Any) -> dict[str, Any]:
        return {name: ref.at[pl.ds(j * WIDTH, WIDTH)] for j, name in enumerate(names)}

    def load(task: Task, i: Any) -> dict[str, Any]:
        batch, pair, at = task.at.batch, task.at.pair, place(task, i)
        group = lax.div(pair, s.pairs_per_group) if s.pairs_per_group else pair
        mine = pl.ds(group * columns, columns)
        return {
            "q": task.gmem.q.at[batch, at.tokens, mine],
            "k": task.gmem.k.at[batch, at.tokens, mine],
            "v": task.gmem.v.at[batch, at.tokens, pl.ds(pair * _BLOCK, _BLOCK)],
            "into": task.gmem.decay.at[batch, pair, at.chunk, 0],
            "out_of": task.gmem.decay.at[batch, pair, at.chunk, 1],
        }

    def setup(task: Task) -> tuple[jax.Array, ...]:
        return tuple(task.t.load(getattr(task.smem, name)) for name in state)

    def compute(task: Task, stage: Any, carry: tuple[jax.Array, ...], i: Any) -> tuple:
        t, at, mine = task.t, place(task, i), pl.ds(task.consumer * WIDTH, WIDTH)
        start = 0 if s.pairs_per_group else task.consumer * s.n
        q, k = (
            [tile.at[:, pl.ds(start + j * WIDTH, WIDTH)] for j in range(parts)]
            for tile in (stage.q, stage.k)
        )
        v, into = stage.v.at[:, mine], stage.into.at[mine]
        read, keep = t.load_column(into), t.load_column(stage.out_of.at[mine])

        kept = t.load(v).astype(jnp.float32) * t.across(jnp.exp2(keep), _SQUARE)
        before = dict(zip(rounded, carry, strict=True))
        if s.states:
            task.put(kept=kept)
            edge = by_part(rounded, task.gmem.states.at[task.at.batch, at.chunk, stream(task)])
            task.store(**{name: (x, edge[name]) for name, x in before.items()})
        else:
            task.put(kept=kept, **before)

        weights = o = None
        for j in range(parts):
            weights = t.mma(weights, q[j], k[j], trans_b=True)
        difference = t.across(read, _SQUARE) - t.down(t.load_row(into), _SQUARE)
        weights *= jnp.exp2(_seen(t, difference, s.reverse))
        for j, name in enumerate(rounded):
            o = t.mma(o, q[j], getattr(task.smem, name))
        o = t.mma(o * t.across(jnp.exp2(read), _SQUARE), weights.astype(s.dtype), v)

        # Every row holds the decay of the whole chunk: up to its token, and from there on.
        whole = t.across(jnp.exp2(read + keep), _SQUARE)
        carry = tuple(
            t.mma(part * whole, k[j], task.smem.kept, trans_a=True) for j, part in enumerate(carry)
        )
        where = (task.at.batch, at.tokens, pl.ds(stream(task) * WIDTH, WIDTH))
        task.store(**{out_tile: (o * s.scale, task.gmem.o.at[where])})
        return carry

    def finish(task: Task, carry: tuple[jax.Array, ...]) -> None:
        where = by_part(state, task.gmem.last.at[task.at.batch, stream(task)])
        task.store(**{name: (x, where[name]) for name, x in zip(state, carry, strict=True)})

    return Kernel(
        grid={"batch": s.batch, "pair": s.pairs},
        out=_outputs(s),
        ring=ring,
        loops=lambda task: ((0, s.chunks),),
        load=load,
        setup=setup,
        compute=compute,
        finish=finish,
        fetched=state,
        fetch=lambda task: by_part(state, task.gmem.first.at[task.at.batch, stream(task)]),
        scratch=scratch,
        consumers=PAIR,
        stages=stages_that_fit(ring, state | scratch, consumers=PAIR, most=3),
        interpret=s.interpret,
    )


def _outputs(s: _Setting) -> dict[str, jax.ShapeDtypeStruct]:
    streams = (s.pairs * PAIR, s.n, WIDTH)
    out = {
        "o": jax.ShapeDtypeStruct((s.batch, s.chunks * CHUNK, s.pairs * _BLOCK), s.out_dtype),
        "last": jax.ShapeDtypeStruct((s.batch, *streams), jnp.float32),
    }
    if s.states:
        out["states"] = jax.ShapeDtypeStruct((s.batch, s.chunks, *streams), s.dtype)
    return out


def _seen(t: Tiles, x: Float[Array, "t s"], reverse: bool) -> Float[Array, "t s"]:
    """Masked but for the sources up to the reader, or in reverse those from it on."""
    if not reverse:
        return t.causal(x)
    reader, source = t.row_numbers(CHUNK), t.column_numbers(CHUNK)
    return t.where(t.down(source, _SQUARE) >= t.across(reader, _SQUARE), x)
