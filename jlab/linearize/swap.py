"""A pretrained transformer with other attention in place of its softmax."""

from collections.abc import Sequence
from dataclasses import replace

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import PyTree

from jlab.nn import (
    FeatureMapConfig,
    LayerConfig,
    Transformer,
    TransformerConfig,
    get_layer,
    restack,
)
from jlab.nn.config import AttentionKind

_MAPS = FeatureMapConfig()


def linearize(
    config: TransformerConfig,
    params: PyTree,
    attention: AttentionKind = "hybrid_terrace",
    *,
    window: int | None = 64,
    feature_map: FeatureMapConfig = _MAPS,
    affine: bool = False,
    softmax_layers: Sequence[int] = (),
) -> tuple[TransformerConfig, PyTree]:
    """The same weights with linear or hybrid attention, and maps that start as the identity.

    Args:
      config: of a softmax model.
      params: its parameters; they are not changed.
      attention: linear, hybrid_terrace or hybrid_sliding.
      window: of the hybrid kinds, in tokens; the linear kind takes none.
      feature_map: the learned maps.
      affine: weigh the linear part by 1 - g.
      softmax_layers: numbers of layers to leave as they are. The depth is then no longer one
        repeated layer: it takes longer to compile.

    Raises:
      ValueError: for a value out of its range, or a model that is linearized already.

    Source: arXiv 2410.10254, Section 3.1; start as in every published command.
    """
    for layer in config.pattern:
        if layer.attention != "softmax":
            raise ValueError(f"config must be softmax throughout; got {layer.attention}")
    if attention == "softmax":
        raise ValueError("attention must be linear, hybrid_terrace or hybrid_sliding; got softmax")
    for n in softmax_layers:
        if not 0 <= n < config.layers:
            raise ValueError(f"softmax_layers must be in [0, {config.layers}); got {n}")
    if len(set(softmax_layers)) == config.layers:
        raise ValueError("softmax_layers must leave a layer to linearize; got all")
    if softmax_layers and config.repeats > 1:
        layers = [get_layer(params, config, n) for n in range(config.layers)]
        config = replace(config, pattern=config.pattern * config.repeats, repeats=1)
        params = {**params, "blocks": restack(layers, config)}

    def swapped(layer: LayerConfig) -> LayerConfig:
        near = window if attention.startswith("hybrid") else None
        fields = {"window": near, "feature_map": feature_map, "affine": affine}
        return replace(layer, attention=attention, **fields)

    pattern = (
        layer if i in softmax_layers else swapped(layer) for i, layer in enumerate(config.pattern)
    )
    config = replace(config, pattern=tuple(pattern))
    old = flatten_dict(params)

    @jax.jit
    def fresh():  # the leaves that `params` lacks: the compiler drops the others
        model = Transformer(config).init(jax.random.key(0), jnp.ones((1, 1), jnp.int32))
        found = flatten_dict(model["params"])
        return {path: leaf for path, leaf in found.items() if path not in old}

    return config, unflatten_dict(old | fresh())
