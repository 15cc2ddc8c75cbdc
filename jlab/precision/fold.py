"""The linear maps of a layer by what they read; scales of inputs put into what makes them.

AWQ multiplies the weights of an input by s and divides the input by it. The division goes into the
norm before the map, or into the columns of the map whose output it reads, where what lies between
them is linear.

Source: Lin et al. 2023, arXiv 2306.00978, Section 3.2; `auto_scale.py` of the released code.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from jlab.nn.config import LayerConfig, PrecisionConfig

Flat = Mapping[str, Any]  # parameters of one layer by dotted name: "attn.q_proj.kernel"


class Stage(NamedTuple):
    """Maps of a layer that read the same inputs."""

    maps: tuple[str, ...]  # "attn.q_proj"
    source: str | None  # norm or map that makes the inputs and can be scaled; None: nothing can
    unclipped: tuple[str, ...] = ()  # of the maps: those whose range AWQ leaves as it is


def stages(layer: LayerConfig, precision: PrecisionConfig) -> tuple[Stage, ...]:
    """The maps of a layer in the order in which they run."""
    read = tuple(f"attn.{name}_proj" for name in "qkv")
    # A value's head goes to one head of the output only where there are as many.
    # Values that are rounded on their way are not those that were divided.
    value = "attn.v_proj" if layer.heads == layer.kv_heads and not precision.kv else None
    up = ("mlp.gate_proj", "mlp.up_proj") if layer.gated else ("mlp.up_proj",)
    # relu(x / s) = relu(x) / s; the other activations are not so.
    linear = layer.gated or layer.activation == "relu"
    hidden = "mlp.up_proj" if linear else None
    if layer.inner_norms:
        value, hidden = "attn.o_norm", "mlp.down_norm"
    return (
        # Errors of queries and keys meet in a product, which their own outputs do not tell of.
        Stage(read, "attn_norm", read[:2]),
        Stage(("attn.o_proj",), value),
        Stage(up, "mlp_norm"),
        Stage(("mlp.down_proj",), hidden),
    )


def divide_source(
    layer: Flat, source: str, scales: Float[Array, "inputs"]
) -> dict[str, Float[Array, "..."]]:
    """What changes in a layer where the outputs of `source` are to be divided by `scales`.

    A kernel is not among it: its codes stay, and only their steps change.
    """
    names = [f"{source}.scale", f"{source}.bias"]
    factor = 1 / scales
    return {
        name: (layer[name].astype(factor.dtype) * factor).astype(jnp.asarray(layer[name]).dtype)
        for name in names
        if name in layer
    }
