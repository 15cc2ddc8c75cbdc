"""Tile kernels for GPUs in Pallas, each with its definition in XLA and its gradient.

After ThunderKittens (Spector et al. 2024, arXiv 2410.20399): a few abstractions at three levels,
`tiles`, `pipeline` (load, compute, store, finish) and `grid`, on which the kernels here are built,
and on which yours can be. Arrays are `[batch, length, heads, dim]`; every op takes
`implementation=None | "mosaic_gpu" | "triton" | "xla"` and chooses by platform and input without
it; `interpret=True` runs the GPU kernel in an interpreter, on any machine.

>>> import jax, jax.numpy as jnp
>>> q, k, v = jax.random.normal(jax.random.key(0), (3, 1, 5, 2, 8))
>>> attention(q, k, v, causal=True).shape
(1, 5, 2, 8)
>>> y, state = linear_attention(q, k, v, slopes=jnp.array([0.1, 0.2]), return_state=True)
>>> y.shape, state.shape
((1, 5, 2, 8), (1, 2, 8, 8))
"""

from pallas_kernels._compat import races_found, reset_interpreter
from pallas_kernels.ops.attention import attention
from pallas_kernels.ops.fftconv import fftconv
from pallas_kernels.ops.hybrid_attention import (
    HybridState,
    hedgehog_attention,
    hedgehog_features,
    hybrid_attention,
)
from pallas_kernels.ops.layernorm import layernorm, rmsnorm
from pallas_kernels.ops.linear_attention import linear_attention
from pallas_kernels.ops.mamba2 import mamba2
from pallas_kernels.ops.matmul import matmul, matmul_fp8, quantize_fp8
from pallas_kernels.ops.rotary import rope_tables, rotary
from pallas_kernels.ops.taylor_attention import TaylorState, taylor_attention

__all__ = [
    "HybridState",
    "TaylorState",
    "attention",
    "fftconv",
    "hedgehog_attention",
    "hedgehog_features",
    "hybrid_attention",
    "layernorm",
    "linear_attention",
    "mamba2",
    "matmul",
    "matmul_fp8",
    "quantize_fp8",
    "races_found",
    "reset_interpreter",
    "rmsnorm",
    "rope_tables",
    "rotary",
    "taylor_attention",
]
