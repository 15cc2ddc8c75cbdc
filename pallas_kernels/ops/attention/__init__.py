"""Softmax attention: causal or full, sliding window, grouped heads, segments, any length.

`xla.py` is the definition, `masking.py` says who sees whom, `mosaic.py` and `mosaic_grad.py` are
the Hopper kernels of the two passes, `triton.py` is the forward pass for other GPUs.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Int

from pallas_kernels.dispatch import (
    Implementation,
    check_count,
    check_integers,
    check_one_dtype,
    check_shape,
    choose,
    fold_vmap,
    varying_alike,
)
from pallas_kernels.ops.attention import mosaic, mosaic_grad, triton, xla
from pallas_kernels.ops.attention.masking import Setting, Tokens

# Checkpoint name of the forward pass's results: a policy of `jax.checkpoint` that saves it spares
# the backward pass a second forward one.
SAVED = "attention"


class _Call(NamedTuple):
    """What is static about a call."""

    setting: Setting
    implementation: Implementation
    interpret: bool


def attention(
    q: Float[Array, "b l heads dim"],
    k: Float[Array, "b s kv_heads dim"],
    v: Float[Array, "b s kv_heads dim_v"],
    *,
    causal: bool = False,
    window: int | None = None,
    scale: float | None = None,
    segment_ids: Int[Array, "b l"] | None = None,
    kv_segment_ids: Int[Array, "b s"] | None = None,
    positions: Int[Array, "b l"] | None = None,
    kv_positions: Int[Array, "b s"] | None = None,
    return_lse: bool = False,
    implementation: Implementation | None = None,
    interpret: bool = False,
) -> (
    Float[Array, "b l heads dim_v"]
    | tuple[Float[Array, "b l heads dim_v"], Float[Array, "b l heads"]]
):
    """softmax(Q K^T * scale) V over the keys that each query sees.

    Head h of the queries reads head h // (heads // kv_heads) of the keys and values. A query i
    stands at place i + s - l, so that the last query meets the last key; a key j at place j. A
    query that sees no key reads 0, has a log-sum-exp of -inf and passes no gradient on.
    Differentiable in q, k and v, in both results, any number of times; in reverse mode only.

    Args:
      q: queries; any length from 1.
      k: keys.
      v: values, which may have another head size than the keys.
      causal: see only keys at the query's place and before.
      window: see only so many keys back, the query's own included; without `causal`, as many ahead.
      scale: of the scores; 1 / sqrt(dim) by default.
      segment_ids: see only keys of the same number; those of the queries.
      kv_segment_ids: those of the keys; the queries' by default.
      positions: places of the queries, in whatever unit `window` counts.
      kv_positions: places of the keys; the queries' by default.
      return_lse: also give the log-sum-exp of each query's scores (natural logarithm, at least
        float32), from which attention over disjoint sets of keys can be merged.
      implementation: "mosaic_gpu" (16-bit types, head sizes up to 128), "triton" or "xla"; by
        default the first that the platform and the inputs allow. Only "xla" knows positions.
      interpret: run the GPU kernel in the interpreter, on any platform.

    Returns:
      What each query reads; with `return_lse`, that and the log-sum-exps.

    Raises:
      ValueError: for shapes that do not fit together, or a setting out of its range.
      TypeError: for mixed types.
      NotImplementedError: for an `implementation` asked for that does not take these inputs.

    Source: FlashAttention (arXiv 2205.14135); grouped heads: arXiv 2305.13245.

    >>> import jax.numpy as jnp
    >>> q, kv = jnp.ones((1, 3, 2, 8)), jnp.ones((1, 5, 1, 8))  # three queries after two more keys
    >>> out, lse = attention(q, kv, kv, causal=True, return_lse=True)
    >>> jnp.exp(lse[0, :, 0] - 8**0.5).round().tolist()  # how many keys each sees
    [3.0, 4.0, 5.0]
    """
    setting = Setting(causal, window, None if scale is None else float(scale))
    tokens = Tokens(segment_ids, kv_segment_ids, positions, kv_positions)
    tokens = _check(setting, q, k, v, tokens)
    reasons = {
        "mosaic_gpu": mosaic.refusal(q, v, tokens),
        "triton": triton.refusal(q, v, tokens),
        "xla": None,
    }
    call = _Call(setting, choose("attention", implementation, interpret, reasons), interpret)
    out, lse = _attend(call, *varying_alike((q, k, v, tokens)))
    return (out, lse) if return_lse else out


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(call: _Call, q: Array, k: Array, v: Array, tokens: Tokens) -> tuple[Array, Array]:
    return _forward(call, q, k, v, tokens)[0]


def _forward(
    call: _Call, q: Array, k: Array, v: Array, tokens: Tokens
) -> tuple[tuple[Array, Array], tuple]:
    kernels = {"mosaic_gpu": mosaic.forward, "triton": triton.forward}
    results = _run(call, kernels, xla.forward, q, k, v, tokens)
    out, lse = (checkpoint_name(x, SAVED) for x in results)
    return (out, lse), (q, k, v, tokens, out, lse)


def _backward(
    call: _Call, saved: tuple, gradients: tuple[Array, Array]
) -> tuple[Array, Array, Array, None]:
    kernels = {"mosaic_gpu": mosaic_grad.backward}
    return *_run(call, kernels, xla.backward, *saved, *gradients), None


_attend.defvjp(_forward, _backward)


def _run(
    call: _Call, kernels: dict[str, Callable], definition: Callable, *args: Array | Tokens
) -> tuple[Array, ...]:
    """One pass by the implementation of `call`, or by the definition where it has no kernel."""
    kernel = kernels.get(call.implementation)
    if kernel is None:
        return definition(call.setting, *args)
    arrays, tree = jax.tree.flatten(args)

    def run(*arrays: Array) -> tuple[Array, ...]:
        return kernel(call.setting, *tree.unflatten(arrays), interpret=call.interpret)

    return fold_vmap(run, [True] * len(arrays))(*arrays)


def _check(setting: Setting, q: Array, k: Array, v: Array, tokens: Tokens) -> Tokens:
    """Refuse what does not fit together; the keys' ids filled in by the queries' where absent."""
    scale = setting.scale
    check_count("attention", window=setting.window)
    if scale is not None and not 0 < scale < math.inf:
        raise ValueError(f"attention: scale must be positive and finite, or None; got {scale}")
    check_one_dtype("attention", q=q, k=k, v=v)
    segments, kv_segments, positions, kv_positions = tokens
    for name, mine, theirs in (
        ("segment_ids", segments, kv_segments),
        ("positions", positions, kv_positions),
    ):
        if mine is None and theirs is not None:
            raise ValueError(f"attention: kv_{name} need {name} of the queries; got None")
        check_integers("attention", **{name: mine, f"kv_{name}": theirs})
    kv_segments = segments if kv_segments is None else kv_segments
    kv_positions = positions if kv_positions is None else kv_positions
    check_shape(
        "attention",
        {},
        q=(q, "batch length heads dim"),
        k=(k, "batch keys kv_heads dim"),
        v=(v, "batch keys kv_heads dim_v"),
        segment_ids=(segments, "batch length"),
        kv_segment_ids=(kv_segments, "batch keys"),
        positions=(positions, "batch length"),
        kv_positions=(kv_positions, "batch keys"),
    )
    if q.shape[2] % k.shape[2]:
        raise ValueError(
            f"attention: heads of q must be a multiple of k's {k.shape[2]}; got {q.shape[2]}"
        )
    return Tokens(segments, kv_segments, positions, kv_positions)
