"""The same weights with one of the two branches of hybrid attention switched off.

Hybrids tend to live on their window (arXiv 2510.05901, abstract). A model that reads no worse
without its linear branch carries nothing in it; one that reads no worse without its window needs
none.
"""

from collections.abc import Callable
from dataclasses import replace

from jlab.nn import LayerConfig, TransformerConfig


def without_linear(config: TransformerConfig) -> TransformerConfig:
    """Hybrid layers read their window alone, by softmax."""
    return _hybrids(config, lambda layer: replace(layer, far=False))


def without_window(config: TransformerConfig) -> TransformerConfig:
    """Hybrid layers read everything through their features, as linear attention does.

    The window's tokens go to the linear branch: left out altogether, the first tokens of a text
    would have nothing to read.
    """
    return _hybrids(config, lambda layer: replace(layer, attention="linear", window=None))


def _hybrids(
    config: TransformerConfig, switched: Callable[[LayerConfig], LayerConfig]
) -> TransformerConfig:
    if not any(layer.hybrid for layer in config.pattern):
        raise ValueError("config must have hybrid layers; got none")
    pattern = (switched(layer) if layer.hybrid else layer for layer in config.pattern)
    return replace(config, pattern=tuple(pattern))
