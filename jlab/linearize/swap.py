"""A pretrained transformer with other attention in place of its softmax."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

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
from jlab.training.config import check_least

LinearizedKind = Literal["hybrid_terrace", "hybrid_sliding", "linear"]
_MAPS = FeatureMapConfig()


@dataclass(frozen=True)
class SwapConfig:
    """What takes the place of softmax attention."""

    attention: tuple[LinearizedKind, ...] = ("hybrid_terrace",)
    """Kinds to compare, each from the same base."""
    window: int = 64
    """Tokens per block of the terrace, or of the sliding window; below data.length."""
    feature_map: FeatureMapConfig = field(default_factory=FeatureMapConfig)
    """The learned maps."""
    affine: bool = False
    """Weigh the linear part by 1 - g, g that of the window; otherwise by 1."""
    softmax_layers: tuple[int, ...] = ()
    """Numbers of layers that stay as they are."""

    def __post_init__(self):
        if not self.attention or len(set(self.attention)) < len(self.attention):
            got = " ".join(self.attention) or "none"
            raise ValueError(f"attention must be different kinds, at least one; got {got}")
        check_least(self, {"window": 1})
        if len(set(self.softmax_layers)) < len(self.softmax_layers):
            raise ValueError(f"softmax_layers must be different ones; got {self.softmax_layers}")

    def settings(self) -> dict[str, Any]:
        """What all kinds share, as the keyword arguments of `linearize`."""
        return {name: value for name, value in vars(self).items() if name != "attention"}


def linearize(
    config: TransformerConfig,
    params: PyTree,
    attention: LinearizedKind = "hybrid_terrace",
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
