"""Step 1, attention transfer: the maps learn to read what softmax attention reads."""

from dataclasses import replace
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from jlab.nn import TransferConfig, Transformer, TransformerConfig


def transfer_loss(
    config: TransformerConfig,
    params: PyTree,
    tokens: Int[Array, "b l"],
    *,
    mse_factor: float = 1000.0,
    xent_factor: float = 0.0,
    scale_free: bool = False,
    **inputs: Any,
) -> tuple[Float[Array, ""], dict[str, Float[Array, "linearized"]]]:
    """mse_factor * mean MSE + xent_factor * mean cross-entropy, over the linearized layers.

    Every layer reads what the softmax model reads, so that no layer's loss depends on another
    layer's maps: all layers learn at once as each would alone. Gradients reach maps and window
    factors and nothing else.

    Args:
      config: with linear or hybrid layers, as `linearize` gives it.
      params: the model's.
      tokens: token ids.
      mse_factor: of the squared error of what attention reads.
      xent_factor: of the cross-entropy of the attention weights; all pairs of tokens.
      scale_free: divide each layer's MSE by the variance of what it is taught, so that no layer
        outweighs another.
      **inputs: `positions` and `segment_ids`, as for the model.

    Returns:
      The loss; and of each linearized layer, in order, `mse`, `variance` and, with xent_factor,
      `xent`, `entropy` and `reach` (see `jlab.nn.transfer`).

    Raises:
      ValueError: for a config without linear or hybrid layers.

    Source: arXiv 2410.10254, Equation 6; the factors as released; scale_free: ours.
    """
    taught = replace(config, transfer=TransferConfig(weights=xent_factor != 0))
    found = measure_transfer(taught, params, tokens, **inputs)
    factors = {"mse_factor": mse_factor, "xent_factor": xent_factor, "scale_free": scale_free}
    return weighed(found, **factors), found


def weighed(
    found: dict[str, Float[Array, "linearized"]],
    mse_factor: float,
    xent_factor: float,
    scale_free: bool,
    layers: int | None = None,
) -> Float[Array, ""]:
    """The loss of what was found; `layers` is of how many it is the mean, where not of these.

    A block of a model is then trained by what the whole model's loss owes to it.
    """
    mse = found["mse"] / found["variance"] if scale_free else found["mse"]
    loss = mse_factor * mse.mean()
    if xent_factor:
        loss += xent_factor * found["xent"].mean()
    return loss * (len(mse) / (layers or len(mse)))


def measure_transfer(
    config: TransformerConfig, params: PyTree, tokens: Int[Array, "b l"], **inputs: Any
) -> dict[str, Float[Array, "linearized"]]:
    """What the linearized layers of a config with `transfer` sow, each in order of depth."""
    if all(layer.attention == "softmax" for layer in config.pattern):
        raise ValueError("config must have linear or hybrid layers; got softmax alone")
    model = Transformer(config)
    sown = model.apply({"params": params}, tokens, **inputs, mutable="transfer")[1]
    return by_depth(config, sown["transfer"]["blocks"])


def by_depth(config: TransformerConfig, sown: PyTree) -> dict[str, Float[Array, "linearized"]]:
    """What the layers of a stack have sown, each in order of depth."""
    positions = [str(i) for i, layer in enumerate(config.pattern) if layer.attention != "softmax"]
    found = [sown[i]["attn"]["linearized"] for i in positions]
    return {name: jnp.stack([x[name] for x in found], axis=1).ravel() for name in found[0]}
