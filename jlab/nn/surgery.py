"""Single layers in and out of the stacked parameters, for methods that work layer by layer.

`params` is the collection of that name: `variables["params"]`. Layer n is counted from the
embedding; it lies in `blocks/<n % pattern>` at index n // pattern of the leading axis.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jlab.nn.block import Layer
from jlab.nn.config import TransformerConfig
from jlab.nn.transformer import read_context

Params = Mapping[str, Any]


def get_layer(params: Params, config: TransformerConfig, n: int) -> Params:
    """Parameters of layer `n` without the leading axis: `attn/q_proj/kernel[inputs, features]`."""
    block, row = _place(config, n)
    return jax.tree.map(lambda leaf: leaf[row], params["blocks"][block])


def set_layer(params: Params, config: TransformerConfig, n: int, layer: Params) -> Params:
    """`params` with layer `n` replaced."""
    block, row = _place(config, n)
    blocks = params["blocks"]
    new = jax.tree.map(lambda leaf, value: leaf.at[row].set(value), blocks[block], layer)
    return {**params, "blocks": {**blocks, block: new}}


def restack(layers: Sequence[Params], config: TransformerConfig) -> Params:
    """The `blocks` of `config` from single layers in order: the inverse of `get_layer` for all n.

    With layers taken from one config and the `config` of another this changes the layout, for
    instance from one repeated layer to a full-length pattern.
    """
    if len(layers) != config.layers:
        raise ValueError(f"layers must hold {config.layers} layers; got {len(layers)}")
    period = len(config.pattern)
    return {
        str(i): jax.tree.map(lambda *leaves: jnp.stack(leaves), *layers[i::period])
        for i in range(period)
    }


def apply_layer(
    config: TransformerConfig,
    layer_params: Params,
    x: Float[Array, "b l d"],
    layer: int = 0,
    positions: Int[Array, "b l"] | None = None,
    segment_ids: Int[Array, "b l"] | None = None,
) -> Float[Array, "b l d"]:
    """The residual stream after layer number `layer` with the given parameters."""
    position = int(_place(config, layer)[0])
    context, _, _ = read_context(config, x.shape[:2], positions, segment_ids, None)
    return Layer(config, position).apply({"params": layer_params}, x, None, context)[0]


def unstacked_names(config: TransformerConfig, path: Sequence[str]) -> tuple[str, ...]:
    """Names of the parameters held at a path of the tree, without the stacking.

    `("blocks", "0", "attn", "q_proj", "kernel")` holds `layers.<n>.attn.q_proj.kernel` of every
    layer n at position 0 of the pattern; a path outside the blocks holds one parameter.
    """
    if path[0] != "blocks":
        return (".".join(path),)
    depths = range(int(path[1]), config.layers, len(config.pattern))
    return tuple(".".join(("layers", str(n), *path[2:])) for n in depths)


def _place(config: TransformerConfig, n: int) -> tuple[str, int]:
    if not 0 <= n < config.layers:
        raise ValueError(f"layer must be in [0, {config.layers}); got {n}")
    row, position = divmod(n, len(config.pattern))
    return str(position), row
