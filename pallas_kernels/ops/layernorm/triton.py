"""Dropout, residual and norm in Triton, for GPUs other than Hopper: a row is one program's work.

The formulas are those of `mosaic` and `mosaic_grad`. A row is a list of pieces: 768 = 512 + 256.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as pltriton
from jaxtyping import Array, Float, Int

from pallas_kernels.ops.layernorm.gradients import Gradients
from pallas_kernels.ops.layernorm.mask import kept
from pallas_kernels.ops.layernorm.xla import Setting
from pallas_kernels.ops.pieces import pieces

_LARGEST_DIM = 8192
# Programs of the backward pass, each of which adds up its rows' share of dweight and dbias.
_SHARES = 512

Row = list[Array]  # its pieces


def unfit(x: Array) -> str | None:
    """Why the kernels cannot take this input; None if they can."""
    if x.shape[-1] > _LARGEST_DIM:
        return f"it takes up to {_LARGEST_DIM} dims; got {x.shape[-1]}"
    if x.dtype not in (jnp.bfloat16, jnp.float16, jnp.float32):
        return f"it takes bfloat16, float16 or float32; got {x.dtype}"
    return None


def forward(
    setting: Setting,
    x: Float[Array, "b n dim"],
    weight: Float[Array, "dim"],
    bias: Float[Array, "dim"] | None,
    residual: Float[Array, "b n dim"] | None,
    words: Int[Array, "b n 2"] | None,
    *,
    interpret: bool = False,
) -> tuple[Float[Array, "b n dim"], Float[Array, "b n dim"]]:
    """y and r; without residual and dropout r is x."""
    parts = pieces(x.shape[-1])

    def row(at: tuple, refs: dict[str, Any]) -> None:
        total = _load(refs["x"], at, parts)
        if words is not None:
            total = _dropped(setting, refs["words"], at, parts, total)
        if residual is not None:
            total = [a + b for a, b in zip(total, _load(refs["residual"], at, parts), strict=True)]
        total = [a.astype(x.dtype).astype(jnp.float32) for a in total]
        c, rstd = _centred(setting, total, x.shape[-1])
        y = [a * rstd * w for a, w in zip(c, _load(refs["weight"], (), parts), strict=True)]
        if bias is not None:
            y = [a + b for a, b in zip(y, _load(refs["bias"], (), parts), strict=True)]
        _store(refs["y"], at, parts, y)
        if "total" in out:
            _store(refs["total"], at, parts, total)

    def program(refs: dict[str, Any]) -> None:
        row((pl.program_id(0), pl.program_id(1)), refs)

    out = dict.fromkeys(("y",) if residual is None and words is None else ("y", "total"), x)
    inputs = {"x": x, "weight": weight, "bias": bias, "residual": residual, "words": words}
    results = _call(program, x.shape[:2], inputs, out, interpret)
    return results["y"], results.get("total", x)


def backward(
    setting: Setting,
    total: Float[Array, "b n dim"],
    weight: Float[Array, "dim"],
    words: Int[Array, "b n 2"] | None,
    dy: Float[Array, "b n dim"],
    d_total: Float[Array, "b n dim"] | None,
    *,
    interpret: bool = False,
) -> Gradients:
    """All gradients; `total` is r, and `d_total` the gradient that reaches it from elsewhere."""
    batch, n, dim = total.shape
    parts, shares = pieces(dim), min(n, _SHARES)

    def row(at: tuple, refs: dict[str, Any], sums: tuple[Row, Row]) -> tuple[Row, Row]:
        c, rstd = _centred(setting, _load(refs["total"], at, parts), dim)
        dys, w = _load(refs["dy"], at, parts), _load(refs["weight"], (), parts)
        g = [a * b for a, b in zip(dys, w, strict=True)]
        along = _sum([a * b for a, b in zip(g, c, strict=True)]) / dim * rstd * rstd
        level = _sum(g) / dim if setting.center else 0.0
        dr = [(a - level - b * along) * rstd for a, b in zip(g, c, strict=True)]
        if d_total is not None:
            dr = [a + b for a, b in zip(dr, _load(refs["d_total"], at, parts), strict=True)]
        if "dtotal" in out:
            _store(refs["dtotal"], at, parts, dr)
        if words is not None:
            _store(refs["dx"], at, parts, _dropped(setting, refs["words"], at, parts, dr))
        dweight = [s + a * b * rstd for s, a, b in zip(sums[0], dys, c, strict=True)]
        return dweight, [s + a for s, a in zip(sums[1], dys, strict=True)]

    def program(refs: dict[str, Any]) -> None:
        b, share = pl.program_id(0), pl.program_id(1)
        zeros = [jnp.zeros(part.size, jnp.float32) for part in parts]
        mine = lax.div(n - share + shares - 1, shares)
        step = lambda i, sums: row((b, share + i * shares), refs, sums)  # noqa: E731
        dweight, dbias = lax.fori_loop(0, mine, step, (zeros, zeros))
        _store(refs["dweight"], (b, share), parts, dweight)
        _store(refs["dbias"], (b, share), parts, dbias)

    inputs = {"total": total, "weight": weight, "words": words, "dy": dy, "d_total": d_total}
    out = dict.fromkeys(Gradients.rows_of(words, d_total), dy)
    sums = jax.ShapeDtypeStruct((batch, shares, dim), jnp.float32)
    out |= {"dweight": sums, "dbias": sums}
    return Gradients.of(_call(program, (batch, shares), inputs, out, interpret))


def _call(
    program: Any,
    grid: tuple[int, int],
    inputs: dict[str, Array | None],
    out: dict[str, Any],
    interpret: bool,
) -> dict[str, Array]:
    """Run `program(refs)` on the grid, with all arrays whole; absent ones are left out."""
    given = {name: x for name, x in inputs.items() if x is not None}
    names = (*given, *out)
    varying = jax.typeof(next(iter(given.values()))).manual_axis_type  # of an enclosing shard_map
    results = pl.pallas_call(
        lambda *refs: program(dict(zip(names, refs, strict=True))),
        grid=grid,
        out_shape=[
            jax.ShapeDtypeStruct(x.shape, x.dtype, manual_axis_type=varying) for x in out.values()
        ],
        compiler_params=pltriton.CompilerParams(num_warps=4),
        interpret=interpret,
    )(*given.values())
    return dict(zip(out, results, strict=True))


def _load(ref: Any, at: tuple, parts: list[pl.Slice]) -> Row:
    return [ref[(*at, part)].astype(jnp.float32) for part in parts]


def _store(ref: Any, at: tuple, parts: list[pl.Slice], row: Row) -> None:
    for part, x in zip(parts, row, strict=True):
        ref[(*at, part)] = x.astype(ref.dtype)


def _sum(row: Row) -> Float[Array, ""]:
    return functools.reduce(jnp.add, [x.sum() for x in row])


def _centred(setting: Setting, total: Row, dim: int) -> tuple[Row, Float[Array, ""]]:
    """The row less its mean (for RMS norm as it is), and 1 / sqrt(var + eps)."""
    mean = _sum(total) / dim if setting.center else 0.0
    c = [x - mean for x in total]
    return c, lax.rsqrt(_sum([x * x for x in c]) / dim + setting.eps)


def _dropped(setting: Setting, words: Any, at: tuple, parts: list[pl.Slice], row: Row) -> Row:
    """The row with its dropped entries at 0, the others grown."""
    first, second = words[(*at, 0)], words[(*at, 1)]
    keep = [
        kept(first, second, part.start + lax.iota(jnp.int32, part.size), setting.dropout)
        for part in parts
    ]
    grown = 1 / (1 - setting.dropout)
    return [jnp.where(k, x * grown, 0.0) for k, x in zip(keep, row, strict=True)]
