"""Other implementations of the same functions, for the benchmark: cuDNN, jax's kernels, torch.

A `Peer` imports its library only when it is made, and what that raises becomes the reason in the
table. Each is at its own library's defaults, or, where the library has none, at the tile sizes of
its heuristics for these shapes.
"""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp

from pallas_kernels import case
from pallas_kernels.case import Peer


def attention(*, causal: bool, gradient: bool = False) -> dict[str, Peer]:
    """Peers of attention: f(q, k, v) -> o, with `gradient` f(q, k, v, do) -> (dq, dk, dv)."""
    on_jax = {
        "cuDNN": _cudnn_attention,
        "jax Mosaic": _mosaic_attention,
        "jax Triton": _triton_attention,
        "tokamax": _tokamax_attention,
    }
    on_torch = {"torch SDPA": _torch_attention, "torch Triton": _torch_flex_attention}
    return _peers(on_jax, on_torch, causal=causal, gradient=3 if gradient else 0)


def layernorm(*, gradient: bool = False) -> dict[str, Peer]:
    """Peers of the fused norm: f(x, weight, bias, residual) -> (y, x + residual).

    With `gradient` f(x, weight, bias, residual, dy, dtotal) -> the four gradients.
    """
    on_jax, on_torch = {"jax Triton": _triton_layernorm}, {"torch Triton": _torch_layernorm}
    return _peers(on_jax, on_torch, gradient=4 if gradient else 0, outputs=2)


def linear_attention() -> dict[str, Peer]:
    """Peers of linear attention with one decay per head: f(q, k, v, slopes) -> o."""
    return _peers({}, {"fla": _fla_linear_attention})


def mamba2() -> dict[str, Peer]:
    """Peers of the state-space sum: f(x, dt, A, B, C) -> y."""
    return _peers({}, {"mamba_ssm": _mamba_ssm})


def rotary() -> dict[str, Peer]:
    """Peers of the rotation: f(x, cos, sin) -> y."""
    return _peers({}, {"torch Triton": _torch_rotary})


def _peers(
    on_jax: dict[str, Callable[..., Any]],
    on_torch: dict[str, Callable[..., Any]],
    gradient: int = 0,
    outputs: int = 1,
    **settings: Any,
) -> dict[str, Peer]:
    """Peers by name; with `gradient` the gradients of that many arrays, forward pass included."""

    def make(function: Callable[..., Any], differentiate: Callable[..., Any]) -> Any:
        made = function(**settings)
        return differentiate(made, gradient, outputs) if gradient else made

    of_jax = {name: Peer(partial(make, f, case.gradient)) for name, f in on_jax.items()}
    of_torch = {n: Peer(partial(make, f, _torch_gradient), "torch") for n, f in on_torch.items()}
    return of_jax | of_torch


def _torch_gradient(call: Callable[..., Any], inputs: int, cotangents: int) -> Callable[..., Any]:
    """`case.gradient` for a function of tensors."""
    import torch

    def gradients(*arrays: Any) -> tuple[Any, ...]:
        leaves = [x.detach().requires_grad_() for x in arrays[:inputs]]
        outputs = call(*leaves, *arrays[inputs:-cotangents])
        return torch.autograd.grad(outputs, leaves, arrays[-cotangents:])

    return gradients


def _cudnn_attention(causal: bool) -> Callable[..., Any]:
    return partial(jax.nn.dot_product_attention, is_causal=causal, implementation="cudnn")


def _mosaic_attention(causal: bool) -> Callable[..., Any]:
    from jax.experimental.pallas.ops.gpu import attention_mgpu as peer

    config = peer.TuningConfig(
        block_q=64,
        block_kv=128,
        max_concurrent_steps=2,
        causal=causal,
        compute_wgs_bwd=2,
        block_q_dkv=64,
        block_kv_dkv=64,
        block_q_dq=64,
        block_kv_dq=64,
    )
    # It leaves the scale to its caller.
    return lambda q, k, v: peer.attention(q * q.shape[-1] ** -0.5, k, v, config)


def _triton_attention(causal: bool) -> Callable[..., Any]:
    from jax.experimental.pallas.ops.gpu import attention as peer

    def call(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        k, v = (jnp.repeat(x, q.shape[2] // x.shape[2], axis=2) for x in (k, v))
        scale = q.shape[-1] ** -0.5
        return peer.mha(q, k, v, segment_ids=None, sm_scale=scale, causal=causal)

    return call


def _tokamax_attention(causal: bool) -> Callable[..., Any]:
    import tokamax

    return partial(tokamax.dot_product_attention, is_causal=causal)


def _torch_attention(causal: bool) -> Callable[..., Any]:
    from torch.nn.functional import scaled_dot_product_attention

    def call(q: Any, k: Any, v: Any) -> Any:
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        grouped = q.shape[1] != k.shape[1]
        o = scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=grouped)
        return o.transpose(1, 2)

    return call


def _torch_flex_attention(causal: bool) -> Callable[..., Any]:
    """The Triton kernel that torch's compiler writes for attention."""
    import torch
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    compiled = torch.compile(flex_attention)

    @lru_cache
    def mask(queries: int, keys: int) -> Any:
        if not causal:
            return None
        return create_block_mask(lambda b, h, i, j: i >= j, None, None, queries, keys)

    def call(q: Any, k: Any, v: Any) -> Any:
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        seen = mask(q.shape[2], k.shape[2])
        return compiled(q, k, v, block_mask=seen, enable_gqa=True).transpose(1, 2)

    return call


def _triton_layernorm() -> Callable[..., Any]:
    """jax's own norm; XLA adds the residual before it."""
    from jax.experimental.pallas.ops.gpu.layer_norm import layer_norm

    def call(x: jax.Array, weight: jax.Array, bias: jax.Array, residual: jax.Array) -> Any:
        total = x + residual
        rows = total.reshape(1, -1, x.shape[-1])  # it takes three axes
        return layer_norm(rows, weight, bias).reshape(x.shape), total

    return call


def _torch_layernorm() -> Callable[..., Any]:
    """The Triton kernel that torch's compiler writes for the sum and its norm."""
    import torch

    def call(x: Any, weight: Any, bias: Any, residual: Any) -> Any:
        total = x + residual
        return torch.nn.functional.layer_norm(total, x.shape[-1:], weight, bias), total

    return torch.compile(call)


def _torch_rotary() -> Callable[..., Any]:
    """The Triton kernel that torch's compiler writes for the rotation."""
    import torch

    def call(x: Any, cos: Any, sin: Any) -> Any:
        cos, sin, half = cos[:, None], sin[:, None], cos.shape[-1]
        first, second, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
        turned = (first * cos - second * sin, second * cos + first * sin)
        return torch.cat([y.to(x.dtype) for y in (*turned, rest)], -1)

    return torch.compile(call)


def _fla_linear_attention() -> Callable[..., Any]:
    from fla.ops.simple_gla import chunk_simple_gla

    def call(q: Any, k: Any, v: Any, slopes: Any) -> Any:
        decay = -slopes.expand(q.shape[:3]).contiguous()
        return chunk_simple_gla(q, k, v, decay, scale=1.0)[0]

    return call


def _mamba_ssm() -> Callable[..., Any]:
    from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined

    return partial(mamba_chunk_scan_combined, chunk_size=256)
