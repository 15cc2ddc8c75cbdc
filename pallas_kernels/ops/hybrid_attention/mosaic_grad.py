"""The Hopper kernels as one function with a derivative, for sizes of all kinds.

With delta = dy . y, the derivatives of numerator and denominator are dy / den and - delta / den.
The window's part is attention's own backward pass with the maximum's derivative added
(`mosaic_near`); the far part's derivatives are far sums themselves (`mosaic_far`):

    dphi_q = l (S dnum + dden z)     S and z summed over earlier blocks
    dphi_k = l (T v + t)             T and t, sums of phi_q dnum^T and phi_q dden over later blocks
    dv     = l T^T phi_k, and the window's
    dl     = phi_q . (S dnum + dden z),  dg = the window's sum of e dP / den

Source: derived from arXiv 2410.10254, Equation 7.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pallas_kernels.dispatch import fold_vmap
from pallas_kernels.ops.hybrid_attention import mosaic
from pallas_kernels.ops.hybrid_attention.mosaic_far import far_sums
from pallas_kernels.ops.hybrid_attention.mosaic_near import Near, of_keys, of_queries
from pallas_kernels.ops.hybrid_attention.operands import Operands, Rule
from pallas_kernels.ops.hybrid_attention.state import per_head

# The sizes of heads and features that the kernels have tiles for.
_SIZES = (64, 128)


def refusal(x: Operands, rule: Rule, segment_ids: Int[Array, "b l"] | None) -> str | None:
    """Why the kernels cannot take these inputs; None if they can."""
    if x.q.dtype != jnp.bfloat16:  # the sums' 16-bit copies could leave the range of float16
        return f"it takes bfloat16; got {x.q.dtype}"
    if (rule.kind, rule.window) != ("terrace", mosaic.BLOCK):
        return f"it has terraces of {mosaic.BLOCK}; got kind {rule.kind}, window {rule.window}"
    if segment_ids is not None:
        return "it does not know segments"
    largest = max(a.shape[3] for a in (x.q, x.v, x.phi_q))
    return f"it has tiles of up to {_SIZES[-1]} columns; got {largest}" if largest > 128 else None


def attend(x: Operands, rule: Rule, *, interpret: bool) -> Float[Array, "b l h p"]:
    """The mixture by kernels; zeros are added up to whole blocks and tiles."""
    length, p = x.v.shape[1], x.v.shape[3]
    whole = ((0, 0), (0, -length % mosaic.BLOCK), (0, 0), (0, 0))
    tokens = (_tiled(jnp.pad(a, whole), 3) for a in x[:5])
    # A factor per row too: then vmap can fold its axis into the batch for all of them.
    factors = (jnp.broadcast_to(a[None], x.kv.shape[:2]) for a in x[5:7])
    arrays = (*tokens, *factors, _tiled(x.kv, 2, 3), _tiled(x.k_sum, 2))
    y = _mixture((rule, interpret), *arrays)
    return y[:, :length, :, :p]


def _tiled(a: Array, *axes: int) -> Array:
    """Zeros added up to sizes that there are tiles for, along these axes."""
    sizes = [next(s for s in _SIZES if s >= n) if i in axes else n for i, n in enumerate(a.shape)]
    return jnp.pad(a, [(0, size - n) for size, n in zip(sizes, a.shape, strict=True)])


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _mixture(setting: tuple[Rule, bool], *arrays: Array) -> Float[Array, "b l h p"]:
    return _forward(setting, *arrays)[0]


def _forward(setting: tuple[Rule, bool], *arrays: Array) -> tuple[Array, tuple]:
    rule, interpret = setting

    def run(*arrays):
        return mosaic.forward(Operands(*arrays), rule, interpret=interpret)

    y, statistics = _folded(run, arrays)
    return y, (*arrays, y, *statistics)


def _backward(setting: tuple[Rule, bool], saved: tuple, dy: Float[Array, "b l h p"]) -> tuple:
    return tuple(_folded(functools.partial(_derivatives, setting), (*saved, dy)))


_mixture.defvjp(_forward, _backward)


def _folded(run: Callable[..., Any], arrays: tuple[Array, ...]) -> Any:
    """`run` under vmap and shard_map: all arrays have the batch in front, and vary alike."""
    return fold_vmap(run, [True] * len(arrays))(*arrays)


def _derivatives(setting: tuple[Rule, bool], *arrays: Array) -> Operands:
    """Derivatives of all operands, from them, the results and the derivative of y."""
    rule, interpret = setting
    x, (y, den, top, dy) = Operands(*arrays[:9]), arrays[9:]
    delta = (dy.astype(jnp.float32) * y.astype(jnp.float32)).sum(3).swapaxes(1, 2)
    near = Near(x.q, x.k, x.v, dy, x.window_factor[:, :, None] / den, delta)
    found = of_queries(near, rule, interpret=interpret)
    dk, dv = of_keys(near, rule, top, found, interpret=interpret)
    far = _far_derivatives(x, dy, den, delta, interpret)
    return far._replace(
        q=found.dq,
        k=dk,
        v=(dv.astype(jnp.float32) + far.v).astype(dv.dtype),
        window_factor=(found.excess / den).sum(2),
    )


def _far_derivatives(
    x: Operands,
    dy: Float[Array, "b l h p"],
    den: Float[Array, "b h l"],
    delta: Float[Array, "b h l"],
    interpret: bool,
) -> Operands:
    """What the far part gives: nothing to queries, keys and the window's factor."""
    far = functools.partial(far_sums, interpret=interpret)
    heads, dtype = x.q.shape[2], x.q.dtype
    dnum = (dy / den.swapaxes(1, 2)[..., None]).astype(dtype)
    dden = (-delta / den)[..., None]  # [b, h, l, 1]
    phi_q = per_head(x.phi_q, heads)
    dden_phi = dden * phi_q
    # Before the linear factor, which may be 0 and has a derivative all the same.
    z = _each_token(mosaic.far_totals(per_head(x.phi_k, heads)) + x.k_sum[:, :, None])
    dphi_q = _wide(far(dnum, x.v, x.phi_k, x.kv.swapaxes(2, 3))) + dden * z
    later = _each_token(mosaic.far_totals(dden_phi, reverse=True))
    dphi_k = _wide(far(x.v, dnum, x.phi_q, reverse=True)) + later
    dv = _wide(far(x.phi_k, x.phi_q, dnum, reverse=True))
    linear = x.linear_factor[:, :, None, None]
    return Operands(
        q=None,
        k=None,
        v=_shared(linear * dv, x.v.shape[2]),
        phi_q=(linear * dphi_q).swapaxes(1, 2).astype(dtype),
        phi_k=_shared(linear * dphi_k, x.phi_k.shape[2]).astype(dtype),
        window_factor=None,
        linear_factor=(phi_q * dphi_q).sum((2, 3)),
        kv=linear * jnp.matmul(phi_q.mT, _wide(dnum), precision="highest"),
        k_sum=linear[..., 0] * dden_phi.sum(2),
    )


def _wide(a: Float[Array, "b l h n"]) -> Float[Array, "b h l n"]:
    return a.astype(jnp.float32).swapaxes(1, 2)


def _each_token(totals: Float[Array, "b h blocks f"]) -> Float[Array, "b h l f"]:
    return jnp.repeat(totals, mosaic.BLOCK, axis=2)


def _shared(a: Float[Array, "b h l n"], heads: int) -> Float[Array, "b l heads n"]:
    """The sum over each group of query heads that shares one head."""
    b, _, length, n = a.shape
    return a.reshape(b, heads, -1, length, n).sum(2).swapaxes(1, 2)
