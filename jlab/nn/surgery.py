"""Single layers in and out of the stacked parameters, for methods that work layer by layer.

`params` is the collection of that name: `variables["params"]`. Layer n is counted from the
embedding; it lies in `blocks/<n % pattern>` at index n // pattern of the leading axis.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict
from jaxtyping import Array, Float, Int

from jlab.nn.block import Layer, scanned_blocks
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
    return _applied(config, layer_params, x, layer, positions, segment_ids, sown=[])[0]


def layer_inputs(
    config: TransformerConfig,
    layer_params: Params,
    x: Float[Array, "b l d"],
    layer: int = 0,
    positions: Int[Array, "b l"] | None = None,
    segment_ids: Int[Array, "b l"] | None = None,
) -> tuple[Float[Array, "b l d"], dict[str, Float[Array, "b l inputs"]]]:
    """As `apply_layer`; also what each linear map of the layer reads: `attn.q_proj` and so on."""
    y, sown = _applied(config, layer_params, x, layer, positions, segment_ids, sown=["inputs"])
    read = flatten_dict(sown["inputs"])
    return y, {".".join(path[:-1]): inputs for path, inputs in read.items()}


def _applied(
    config: TransformerConfig,
    layer_params: Params,
    x: Float[Array, "b l d"],
    layer: int,
    positions: Int[Array, "b l"] | None,
    segment_ids: Int[Array, "b l"] | None,
    sown: list[str],
) -> tuple[Float[Array, "b l d"], Params]:
    """The residual stream after a layer, and the collections that it sows."""
    module = Layer(config, int(_place(config, layer)[0]))
    context, _, _ = read_context(config, x.shape[:2], positions, segment_ids, None)
    (y, _), found = module.apply({"params": layer_params}, x, None, context, mutable=sown)
    return y, found


def take_stack(
    params: Params, config: TransformerConfig, start: int, stop: int
) -> tuple[TransformerConfig, Params]:
    """Layers `start` to `stop`, the last left out: their config, and their part of `blocks`.

    Raises:
      ValueError: no such layers, or a border within the pattern that one scan repeats.
    """
    period = len(config.pattern)
    if not 0 <= start < stop <= config.layers:
        raise ValueError(f"layers must be some of 0..{config.layers}; got {start}..{stop}")
    blocks = params["blocks"]
    if config.repeats == 1:
        part = {str(i - start): blocks[str(i)] for i in range(start, stop)}
        return replace(config, pattern=config.pattern[start:stop]), part
    if start % period or stop % period:
        raise ValueError(
            f"layers must be cut between repeats of the pattern of {period}; got {start}..{stop}"
        )
    rows = slice(start // period, stop // period)
    part = jax.tree.map(lambda leaf: leaf[rows], blocks)
    return replace(config, repeats=rows.stop - rows.start), part


def join_stacks(
    config: TransformerConfig, starts: Sequence[int], stacks: Sequence[Params]
) -> Params:
    """`blocks` of the model of which these are consecutive layers: the inverse of `take_stack`.

    Args:
      config: of the whole model.
      starts: number of each stack's first layer.
      stacks: may hold just some of each layer's parameters.
    """
    if config.repeats > 1:
        return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *stacks)
    return {
        str(start + int(i)): layer
        for start, stack in zip(starts, stacks, strict=True)
        for i, layer in stack.items()
    }


def apply_stack(
    config: TransformerConfig,
    blocks: Params,
    x: Float[Array, "b l d"],
    positions: Int[Array, "b l"] | None = None,
    segment_ids: Int[Array, "b l"] | None = None,
) -> tuple[Float[Array, "b l d"], dict[str, Any]]:
    """The residual stream after the layers of a stack, and the collections that they sow.

    Args:
      config: of the stack, as `take_stack` gives it.
      blocks: of the stack.
      x: what its first layer reads.
      positions: as for the model.
      segment_ids: as for the model.
    """
    context, _, _ = read_context(config, x.shape[:2], positions, segment_ids, None)
    sown = ["transfer"] if config.transfer else []
    apart = (None,) * len(config.pattern)  # no cache
    stack = scanned_blocks(config)(config)
    (x, _), found = stack.apply({"params": blocks}, x, apart, context, mutable=sown)
    return x, found


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
