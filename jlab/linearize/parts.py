"""What is trained of a linearized model, and what stays as it was.

Step 1 trains maps and window factors, step 2 adapters; the pretrained weights are never changed.
So gradients, optimiser state and checkpoints are of the trained part alone.
"""

from typing import Any

from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import PyTree


def split_maps(params: PyTree) -> tuple[PyTree, PyTree]:
    """The maps and window factors, and all other parameters."""
    flat = flatten_dict(params)
    maps = {path: leaf for path, leaf in flat.items() if "linearized" in path}
    rest = {path: leaf for path, leaf in flat.items() if path not in maps}
    return unflatten_dict(maps), unflatten_dict(rest)


def join_maps(maps: PyTree, rest: PyTree) -> PyTree:
    """The parameters of which these are parts."""
    return unflatten_dict({**flatten_dict(rest), **flatten_dict(maps)})


def with_trained(frozen: PyTree, trained: dict[str, PyTree]) -> dict[str, Any]:
    """Variables of the model: `frozen` parameters with the trained `maps` and `lora`, if any."""
    variables = {"params": join_maps(trained.get("maps", {}), frozen)}
    return variables | {"lora": trained["lora"]} if "lora" in trained else variables
