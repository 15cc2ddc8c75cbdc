"""Names and shapes, in the LoLCATs release, of what linear and hybrid layers have of their own.

Under an attention's name lie `feature_map_q.mlp.layer[heads, dim, features]`, the same for
`feature_map_k` (absent where both share one map) and `window_factors[1, heads, 1, 1]`, which is
raw: its sigmoid weighs the window. What a head has once, or once per feature, has axes of one
where the release broadcasts it over texts and tokens. Source: its feature_map.py.
"""

from collections.abc import Sequence

MODULE = "linearized"  # of our layers, with all these parameters
_LINEAR = {"map": "layer", "bias": "bias"}
_ADAPTER = {"map_in": "layer0", "bias_in": "bias0", "map": "layer1", "bias": "bias1"}


def map_name(path: Sequence[str], adapter: bool) -> str:
    """Released name, below its attention's, of a parameter below `linearized`.

    Args:
      path: such as ("feature_map_q", "map"), or ("window_factor",).
      adapter: the map has hidden units, and names of its own.
    """
    if len(path) == 1:
        return "window_factors"
    return f"{path[0]}.mlp.{(_ADAPTER if adapter else _LINEAR)[path[1]]}"


def map_shape(leaf: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of the released tensor of one layer's leaf: `bias[heads]` is `[1, heads, 1, 1]`."""
    if leaf.startswith("map"):
        return shape
    heads, *features = shape
    return (1, heads, 1, *(features or (1,)))
