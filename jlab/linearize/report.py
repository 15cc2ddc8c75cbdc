"""What tells, layer by layer, whether a linearized model has learned to read as softmax does."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PyTree

from jlab.data.batch import Batch
from jlab.linearize.transfer import measure_transfer
from jlab.nn import TransferConfig, TransformerConfig
from jlab.nn.cache import PADDING


def layer_report(
    config: TransformerConfig, params: PyTree, batches: Sequence[Batch]
) -> dict[str, list[float]]:
    """Means over the windows of some batches, for each linearized layer in order of depth.

    Every layer is measured on what the softmax model of the same weights gives it to read. Rows
    that only fill up a batch (id -1) do not count.

    Returns:
      `mse` and `variance` of what attention reads, `xent`, and of softmax attention `entropy`
      (nats) and `reach`, the effective sequence length per query (tokens); see `jlab.nn.transfer`.

    Source: arXiv 2410.10254, Equation 9 and Section 5 (mse against entropy and depth).
    """
    config = replace(config, transfer=TransferConfig(weights=True))
    found = [jax.device_get(_measure(config, params, batch)) for batch in batches]
    rows = [(np.asarray(batch.ids) >= 0).sum() for batch in batches]
    return {
        name: np.average([x[name] for x in found], axis=0, weights=rows).tolist()
        for name in found[0]
    }


@partial(jax.jit, static_argnums=0)
def _measure(
    config: TransformerConfig, params: PyTree, batch: Batch
) -> dict[str, Float[np.ndarray, "linearized"]]:
    segments = jnp.where(batch.ids[:, None] >= 0, batch.segment_ids, PADDING)
    places = {"positions": batch.positions, "segment_ids": segments}
    return measure_transfer(config, params, batch.tokens, **places)
