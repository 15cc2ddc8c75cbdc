"""The families of released models as config values.

Every function takes sizes by name; `model` holds further fields of `TransformerConfig`, such as
`vocab_size`, `tied`, `norm_eps` and `dtype`.
"""

from dataclasses import replace
from typing import Any

from jlab.nn.config import Activation, LayerConfig, RopeConfig, TransformerConfig

_ROPE = RopeConfig()
_QWEN2_ROPE = RopeConfig(theta=1e6)
_NEOX_ROPE = RopeConfig(fraction=0.25)


def llama(
    *,
    d_model: int,
    layers: int,
    heads: int,
    d_ff: int,
    kv_heads: int | None = None,
    head_dim: int | None = None,
    rope: RopeConfig = _ROPE,
    **model: Any,
) -> TransformerConfig:
    """Llama (arXiv 2302.13971, 2407.21783): RMSNorm, gated silu MLP, grouped heads, no biases."""
    layer = LayerConfig(
        heads=heads,
        kv_heads=kv_heads or heads,
        head_dim=head_dim or d_model // heads,
        d_ff=d_ff,
        rope=rope,
    )
    return TransformerConfig(d_model=d_model, pattern=(layer,), repeats=layers, **model)


def mistral(*, window: int | None = None, **sizes: Any) -> TransformerConfig:
    """Mistral (arXiv 2310.06825): Llama in which every layer sees at most `window` tokens."""
    config = llama(**sizes)
    return replace(config, pattern=(replace(config.pattern[0], window=window),))


def qwen2(
    *,
    window: int | None = None,
    window_from: int = 0,
    rope: RopeConfig = _QWEN2_ROPE,
    norm_eps: float = 1e-6,
    **sizes: Any,
) -> TransformerConfig:
    """Qwen2 (arXiv 2407.10671): Llama with query, key and value biases.

    Layers from `window_from` on see at most `window` tokens.
    """
    config = llama(rope=rope, norm_eps=norm_eps, **sizes)
    full = replace(config.pattern[0], qkv_bias=True)
    if window is None or window_from == 0:
        return replace(config, pattern=(replace(full, window=window),))
    near = (replace(full, window=window),) * (config.layers - window_from)
    return replace(config, pattern=(full,) * window_from + near, repeats=1)


def neox(
    *,
    d_model: int,
    layers: int,
    heads: int,
    d_ff: int,
    rope: RopeConfig = _NEOX_ROPE,
    parallel: bool = True,
    activation: Activation = "gelu",
    **model: Any,
) -> TransformerConfig:
    """GPT-NeoX (arXiv 2204.06745) and Pythia (arXiv 2304.01373).

    LayerNorm, parallel residual, plain MLP, biases everywhere, a quarter of each head rotated.
    """
    layer = LayerConfig(
        heads=heads,
        kv_heads=heads,
        head_dim=d_model // heads,
        d_ff=d_ff,
        gated=False,
        activation=activation,
        parallel=parallel,
        qkv_bias=True,
        out_bias=True,
        mlp_bias=True,
        rope=rope,
    )
    return TransformerConfig(
        d_model=d_model, pattern=(layer,), repeats=layers, norm="layer", **model
    )
