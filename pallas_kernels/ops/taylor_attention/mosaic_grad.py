"""The Hopper kernels of Taylor attention as one function with a derivative, for sizes of all kinds.

With delta = dy . y, numerator and denominator have the derivatives dnum = dy / den and
dden = - delta / den (dnum = dy alone where nothing is divided). The values' derivative is the sum
itself in reverse, with k, q, dnum for q, k, v. For queries and keys

    dq_t = sum over s <= t of (1 + z_ts) (dnum_t.v_s + dden_t) k_s / sqrt(d)
    dk_s = sum over t >= s of (1 + z_ts) (v_s.dnum_t + dden_t) q_t / sqrt(d)

are one function too, `_pulled`. Of far blocks it takes the features' derivatives from the same
state, dphi = state dnum, and then those of the products of pairs. What the normaliser needs of far
blocks is a quadratic form in sums of k k^T, small, and left to XLA.
Source: derived from Based, arXiv 2402.18668, Section 4.1.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from pallas_kernels.dispatch import fold_vmap
from pallas_kernels.ops.taylor_attention import mosaic
from pallas_kernels.ops.taylor_attention.mosaic import BLOCK, Scan, weighted_sums
from pallas_kernels.ops.taylor_attention.operands import Operands
from pallas_kernels.ops.taylor_attention.pairs import (
    WIDTH,
    coefficients,
    from_pairs,
    moment_of_state,
    moments,
    pairs_of,
    state_of_moment,
    to_pairs,
    weights,
    with_ones,
)
from pallas_kernels.pipeline import Kernel, Task, stages_that_fit
from pallas_kernels.tiles import Tile

# The copies into shared memory take 256 rows at most: so many pairs, 253 for 21 columns.
_MOST_COLUMNS = 21


class _Setting(NamedTuple):
    """What a call is compiled for, beside shapes."""

    d: int
    normalize: bool
    interpret: bool


def refusal(x: Operands) -> str | None:
    """Why the kernels cannot take these inputs; None if they can."""
    if x.q.dtype != jnp.bfloat16:  # the state's 16-bit copy could leave the range of float16
        return f"it takes bfloat16; got {x.q.dtype}"
    if x.q.shape[3] > _MOST_COLUMNS:
        return f"it has queries and keys of up to {_MOST_COLUMNS} columns; got {x.q.shape[3]}"
    return None


def attend(
    x: Operands, sums: Float[Array, "b kv_heads e p1"], *, normalize: bool, interpret: bool
) -> tuple[Float[Array, "b l h p"], Float[Array, "b kv_heads e p1"]]:
    """The result and the state after it; zeros are added up to whole blocks and tiles."""
    length, d, p = x.q.shape[1], x.q.shape[3], x.v.shape[3]
    group, whole = x.q.shape[2] // x.k.shape[2], -(-length // BLOCK) * BLOCK
    k = with_ones(x.k, whole)
    v = jnp.pad(x.v, ((0, 0), (0, whole - length), (0, 0), (0, -p % BLOCK)))
    state = to_pairs(jnp.pad(sums[..., :-1], ((0, 0),) * 3 + ((0, -p % BLOCK),)), pairs_of(d))
    moment = moment_of_state(sums[..., -1], d)
    shared = (jnp.repeat(a, group, axis=2) for a in (k, v))
    states = (jnp.repeat(a, group, axis=1) for a in (state, moment))
    setting = _Setting(d, normalize, interpret)
    y, last = _mixture(setting, with_ones(x.q, whole), *shared, *states)
    ones = jnp.ones((*k.shape[:1], k.shape[2], k.shape[1]), jnp.float32)
    moment = moment + moments(k, ones, d, whole)[:, :, 0]
    last = from_pairs(last[:, ::group, :, :p], pairs_of(d))
    last = jnp.concatenate([last, state_of_moment(moment, d)[..., None]], axis=-1)
    return y[:, :length, :, :p], last


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _mixture(setting: _Setting, *arrays: Array) -> tuple[Array, Array]:
    return _forward(setting, *arrays)[0]


def _forward(setting: _Setting, *arrays: Array) -> tuple[tuple[Array, Array], tuple]:
    def run(q, k, v, state, moment):
        scan, far = Scan(setting.d, False, setting.interpret), None
        if setting.normalize:
            before = _before(_ones(q), k, moment, scan)
            far = (_rows(before, q, setting.d) * _columns(q, setting.d)).sum(-1)
        y, den, last = weighted_sums(scan, q, k, v, state, far)
        return (y, last), (y, den)

    results, saved = _folded(run, arrays)
    return results, (*arrays, *saved)


def _backward(setting: _Setting, saved: tuple, derivatives: tuple) -> tuple:
    *inputs, y, den = saved
    more = (y, den) if setting.normalize else ()
    arrays = (*inputs, *derivatives, *more)
    return _folded(functools.partial(_derivatives, setting), arrays)


_mixture.defvjp(_forward, _backward)


def _folded(run: Callable[..., Any], arrays: tuple[Array, ...]) -> Any:
    """`run` under vmap and shard_map: all arrays have the batch in front, and vary alike."""
    return fold_vmap(run, [True] * len(arrays))(*arrays)


def _derivatives(
    setting: _Setting,
    q: Float[Array, "b l h width"],
    k: Float[Array, "b l h width"],
    v: Float[Array, "b l h p"],
    state: Float[Array, "b h m p"],
    moment: Float[Array, "b h n n"],
    dy: Float[Array, "b l h p"],
    dlast: Float[Array, "b h m p"],
    y: Float[Array, "b l h p"] | None = None,
    den: Float[Array, "b h l"] | None = None,
) -> tuple[Array, ...]:
    """Derivatives of q, k, v, state and moment, from those of y and the last state."""
    d = setting.d
    forward, reverse = (Scan(d, backward, setting.interpret) for backward in (False, True))
    weight = weights(pairs_of(d))[None, None, :, None]
    # What the copy of a state is multiplied by, the derivative of the last state must not be.
    later = jnp.where(weight > 0, dlast / jnp.where(weight > 0, weight, 1), 0)
    dnum, dmoment, sides = dy, jnp.zeros_like(moment), {}
    if setting.normalize:
        delta = (dy.astype(jnp.float32) * y.astype(jnp.float32)).sum(3).swapaxes(1, 2)
        dnum, dden = (dy / den.swapaxes(1, 2)[..., None]).astype(dy.dtype), -delta / den
        sides = {"q": (dden, _ones(q)), "k": (_ones(q), dden)}
    dv, _, first = weighted_sums(reverse, k, q, dnum, later, None)
    dq = _pulled(forward, q, k, dnum, v, state, sides.get("q"))
    dk = _pulled(reverse, k, q, v, dnum, later, sides.get("k"))
    if setting.normalize:
        before = _before(_ones(q), k, moment, forward)
        dq += 2 * dden.swapaxes(1, 2)[..., None] * _rows(before, q, d, WIDTH).swapaxes(1, 2)
        after = _before(dden, q, dmoment, reverse)
        dk += 2 * _rows(after, k, d, WIDTH).swapaxes(1, 2)
        total = moments(q, dden, d, q.shape[1])[:, :, 0]
        dmoment = total * coefficients(d)[None, None]
    return dq.astype(q.dtype), dk.astype(k.dtype), dv, weight * first, dmoment


def _ones(x: Float[Array, "b l h width"]) -> Float[Array, "b h l"]:
    return jnp.ones((x.shape[0], x.shape[2], x.shape[1]), jnp.float32)


def _columns(x: Float[Array, "b l h width"], d: int) -> Float[Array, "b h l n"]:
    return x[..., : d + 1].astype(jnp.float32).swapaxes(1, 2)


def _before(
    weight: Float[Array, "b h l"],
    x: Float[Array, "b l h width"],
    initial: Float[Array, "b h n n"],
    scan: Scan,
) -> Float[Array, "b h blocks n n"]:
    """`initial` and the sum of weight x x^T over all blocks before each one (in reverse, after)."""
    sums = moments(x, weight, scan.d, BLOCK)
    sums = jnp.pad(sums, [(0, 0), (0, 0), (0, 1) if scan.reverse else (1, 0), (0, 0), (0, 0)])
    kept = slice(1, None) if scan.reverse else slice(None, -1)
    return initial[:, :, None] + lax.cumsum(sums[:, :, kept], axis=2, reverse=scan.reverse)


def _rows(
    moment: Float[Array, "b h blocks n n"], x: Float[Array, "b l h width"], d: int, width: int = 0
) -> Float[Array, "b h l n"]:
    """(coefficients * moment) x for each token and its block; zeros up to `width` columns."""
    b, h, blocks, n, _ = moment.shape
    columns = _columns(x, d).reshape(b, h, blocks, BLOCK, n)
    rows = jnp.matmul(columns, moment * coefficients(d)[None, None, None], precision="highest")
    rows = rows.reshape(b, h, blocks * BLOCK, n)
    return jnp.pad(rows, ((0, 0),) * 3 + ((0, width - n),)) if width else rows


def _pulled(
    scan: Scan,
    a: Float[Array, "b l h width"],
    b: Float[Array, "b l h width"],
    x: Float[Array, "b l h p"],
    c: Float[Array, "b l h p"],
    state: Float[Array, "b h m p"],
    sides: tuple[Float[Array, "b h l"], Float[Array, "b h l"]] | None,
) -> Float[Array, "b l h width"]:
    """da_n = sum over m <= n of (1 + z) (x_n.c_m + u_n w_m) b_m / sqrt(d), without w's far part.

    In reverse m >= n. `sides` are u and w; the column of ones has no derivative, what is there
    means nothing.
    """
    inputs = {"a": a, "b": b, "x": x, "c": c, "state": state}
    inputs |= mosaic.constants(scan.pairs, a.dtype)
    if sides is not None:
        # Values in several tasks' columns: the first alone adds what has no columns.
        more = c.shape[3] // BLOCK - 1
        inputs["u"] = jnp.pad(sides[0][None], ((0, more), (0, 0), (0, 0), (0, 0)))
        inputs["w"] = sides[1]
    return _kernel(scan, inputs)(**inputs)["da"].sum(0)


def _kernel(scan: Scan, inputs: dict[str, jax.Array]) -> Kernel:
    (batch, length, heads, p), dtype = inputs["c"].shape, inputs["c"].dtype
    blocks, sided = length // BLOCK, "u" in inputs

    def load(task: Task, i: Any) -> dict[str, Any]:
        b, h, rows, gmem = task.at.batch, task.at.head, scan.rows(i, blocks), task.gmem
        tiles = {name: getattr(gmem, name).at[b, rows, h] for name in "ab"}
        if sided:
            tiles["u"], tiles["w"] = gmem.u.at[task.at.columns, b, h, rows], gmem.w.at[b, h, rows]
        values = b, rows, h, mosaic.columns(task)
        return tiles | {name: getattr(gmem, name).at[values] for name in "xc"}

    def compute(task: Task, stage: Any, carry: tuple, i: Any) -> tuple:
        t = task.t
        slope = 1 + (t.mma(None, stage.a, stage.b, trans_b=True) - 1) * scan.d**-0.5
        gain = t.mma(None, stage.x, stage.c, trans_b=True)
        if sided:
            u, w = t.load_column(stage.u), t.load_row(stage.w)
            gain += t.across(u, gain.shape) * t.down(w, gain.shape)
        near = mosaic.seen(t, scan, slope * gain * scan.d**-0.5)
        da = t.mma(None, near.astype(dtype), stage.b)

        def step(f: Any, da: Array) -> Array:
            pairs = mosaic.tile(f)
            dphi = t.mma(None, stage.x, task.smem.copy.at[pairs], trans_b=True)
            for one, other in (("first", "second"), ("second", "first")):
                factor = mosaic.picked(task, other, stage.a, pairs).astype(jnp.float32)
                da = t.mma(da, (dphi * factor).astype(dtype), getattr(task.smem, one).at[pairs])
            mosaic.take_in(task, pairs, stage.b, stage.c)
            return da

        da = lax.fori_loop(0, mosaic.tiles_of(scan), step, da)
        b, h, rows = task.at.batch, task.at.head, scan.rows(i, blocks)
        task.store(da=(da, task.gmem.da.at[task.at.columns, b, rows, h]))
        return carry

    ring = {name: Tile((BLOCK, WIDTH), dtype) for name in "ab"}
    ring |= {name: Tile((BLOCK, BLOCK), dtype) for name in "xc"}
    if sided:
        ring |= {name: Tile((BLOCK,), jnp.float32) for name in "uw"}
    fetched = mosaic.fetched_of(scan, dtype)
    scratch = mosaic.scratch_of(scan, dtype) | {"da": Tile((BLOCK, WIDTH), jnp.float32)}
    shape = p // BLOCK, batch, length, heads, WIDTH
    return Kernel(
        grid={"columns": p // BLOCK, "head": heads, "batch": batch},
        out={"da": jax.ShapeDtypeStruct(shape, jnp.float32)},
        ring=ring,
        fetched=fetched,
        fetch=mosaic.fetch,
        scratch=scratch,
        loops=lambda task: ((0, blocks),),
        load=load,
        setup=lambda task: mosaic.start(task, scan),
        compute=compute,
        finish=lambda task, carry: None,
        consumers=1,
        stages=stages_that_fit(ring, fetched | scratch, consumers=1, most=4),
        interpret=scan.interpret,
    )
