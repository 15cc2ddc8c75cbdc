"""The kernels joined to their gradients: one pass forward, one back, nothing else kept than r."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
from jaxtyping import Array, Float, Int

from pallas_kernels.dispatch import Implementation, fold_vmap
from pallas_kernels.ops.layernorm import mosaic, mosaic_grad, triton
from pallas_kernels.ops.layernorm.xla import Setting


class Static(NamedTuple):
    """What the kernels are compiled for."""

    setting: Setting
    implementation: Implementation
    interpret: bool


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def fused(
    static: Static,
    x: Float[Array, "*rows dim"],
    weight: Float[Array, "dim"],
    bias: Float[Array, "dim"] | None,
    residual: Float[Array, "*rows dim"] | None,
    words: Int[Array, "*rows 2"] | None,
) -> tuple[Float[Array, "*rows dim"], Float[Array, "*rows dim"]]:
    """y and r; `words` are the random words of each row, None where nothing is dropped."""
    return _forward(static, x, weight, bias, residual, words)[0]


def _forward(
    static: Static,
    x: Array,
    weight: Array,
    bias: Array | None,
    residual: Array | None,
    words: Array | None,
) -> tuple:
    run = mosaic.forward if static.implementation == "mosaic_gpu" else triton.forward
    y, total = _folded(
        functools.partial(run, static.setting, interpret=static.interpret),
        {"weight": weight, "bias": bias},
        {"x": x, "residual": residual, "words": words},
    )
    out = y.reshape(x.shape), total.reshape(x.shape)
    return out, (weight, bias, residual is not None, words, out[1])


def _backward(static: Static, saved: tuple, d: tuple[Array, Array]) -> tuple:
    weight, bias, has_residual, words, total = saved
    run = mosaic_grad.backward if static.implementation == "mosaic_gpu" else triton.backward
    dx, dresidual, dweight, dbias = _folded(
        functools.partial(run, static.setting, interpret=static.interpret),
        {"weight": weight},
        {"total": total, "words": words, "dy": d[0], "d_total": d[1] if has_residual else None},
    )
    return (
        dx.reshape(total.shape),
        dweight.sum(0).astype(weight.dtype),
        None if bias is None else dbias.sum(0).astype(bias.dtype),
        dresidual.reshape(total.shape) if has_residual else None,
        None,
    )


fused.defvjp(_forward, _backward)


def _folded(
    run: Callable, vectors: dict[str, Array | None], rows: dict[str, Array | None]
) -> tuple:
    """`run` of the arrays that are there; `vmap` folds into a first axis that `rows` get here."""
    rows = {name: None if x is None else x.reshape(1, -1, x.shape[-1]) for name, x in rows.items()}
    arrays = vectors | rows
    given = {name: x for name, x in arrays.items() if x is not None}

    def of_given(*xs: Array) -> tuple:
        return run(**arrays | dict(zip(given, xs, strict=True)))

    return fold_vmap(of_given, [name in rows for name in given])(*given.values())
