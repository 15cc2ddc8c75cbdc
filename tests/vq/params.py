"""Parameters without running an initialiser, whose many small programs take long to compile."""

import jax
import numpy as np
from flax import linen as nn


def filled(module: nn.Module, *inputs: jax.typing.ArrayLike, seed: int = 0) -> dict:
    """Parameters of a module: scales about 1, weights over the root of what each output reads."""
    rng = np.random.default_rng(seed)
    made = jax.eval_shape(module.init, jax.random.key(0), *inputs)["params"]

    def fill(path, leaf):
        noise = rng.normal(size=leaf.shape).astype(leaf.dtype)
        kind = path[-1].key
        if kind == "kernel":
            return noise / np.float32(np.sqrt(np.prod(leaf.shape[:-1])))
        return np.float32(0.1) * noise + np.float32(kind == "scale")

    return jax.tree_util.tree_map_with_path(fill, made)
