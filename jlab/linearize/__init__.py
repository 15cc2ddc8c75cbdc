"""LoLCATs (Zhang et al. 2024, arXiv 2410.10254): linearize a pretrained transformer.

Softmax attention is replaced by attention that is linear in learned features, alone or with softmax
over a near window, and decodes in constant memory. Step 1 trains the features alone, so that each
layer reads what softmax read; step 2 trains low-rank updates of the projections on text.

>>> import jax, jax.numpy as jnp
>>> from jlab.nn import LayerConfig, Transformer, TransformerConfig
>>> layer = LayerConfig(heads=2, kv_heads=1, head_dim=8, d_ff=32)
>>> config = TransformerConfig(vocab_size=11, d_model=16, pattern=(layer,), repeats=2)
>>> tokens = jax.random.randint(jax.random.key(0), (1, 20), 0, 11)
>>> params = Transformer(config).init(jax.random.key(1), tokens)["params"]
>>> config, params = linearize(config, params, window=4)
>>> loss, found = transfer_loss(config, params, tokens)
>>> found["mse"].shape  # one error per layer
(2,)
>>> read = Transformer(config).apply({"params": params}, tokens, cache=64)
>>> read.cache.layers[0].kv.shape  # layers, rows, heads, features, dim: whatever was read
(2, 1, 2, 128, 8)
"""

from jlab.linearize.controls import without_linear, without_window
from jlab.linearize.decode import Decoding, measure_decoding
from jlab.linearize.losses import TransferLoss, block_step, transfer_step, tuning_step
from jlab.linearize.pack import pack_released
from jlab.linearize.parts import join_maps, split_maps, with_trained
from jlab.linearize.released import released_attention, released_masks
from jlab.linearize.report import layer_report
from jlab.linearize.swap import LinearizedKind, SwapConfig, linearize
from jlab.linearize.transfer import measure_transfer, transfer_loss
from jlab.nn.feature_maps import adapter_map, feature_map, identity_maps, uniform_maps
from jlab.nn.linear_attention import LinearState, linear_attention
from pallas_kernels import HybridState, hybrid_attention

__all__ = [
    "Decoding",
    "HybridState",
    "LinearState",
    "LinearizedKind",
    "SwapConfig",
    "TransferLoss",
    "adapter_map",
    "block_step",
    "feature_map",
    "hybrid_attention",
    "identity_maps",
    "join_maps",
    "layer_report",
    "linear_attention",
    "linearize",
    "measure_decoding",
    "measure_transfer",
    "pack_released",
    "released_attention",
    "released_masks",
    "split_maps",
    "transfer_loss",
    "transfer_step",
    "tuning_step",
    "uniform_maps",
    "with_trained",
    "without_linear",
    "without_window",
]
