"""What tells, layer by layer, whether a linearized model has learned to read as softmax does."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import jax
import numpy as np
from jaxtyping import Float, PyTree

from jlab.data.batch import Batch
from jlab.linearize.transfer import measure_transfer
from jlab.nn import TransferConfig, TransformerConfig


def layer_report(
    config: TransformerConfig, params: PyTree, batches: Sequence[Batch]
) -> dict[str, list[float]]:
    """Means over batches of equal size, for each linearized layer in order of depth.

    Every layer is measured on what the softmax model of the same weights gives it to read.

    Returns:
      `mse` and `variance` of what attention reads, `xent`, and of softmax attention `entropy`
      (nats) and `reach`, the effective sequence length per query (tokens); see `jlab.nn.transfer`.

    Source: arXiv 2410.10254, Equation 9 and Section 5 (mse against entropy and depth).
    """
    config = replace(config, transfer=TransferConfig(weights=True))
    found = [jax.device_get(_measure(config, params, batch)) for batch in batches]
    return {name: np.mean([x[name] for x in found], axis=0).tolist() for name in found[0]}


@partial(jax.jit, static_argnums=0)
def _measure(
    config: TransformerConfig, params: PyTree, batch: Batch
) -> dict[str, Float[np.ndarray, "linearized"]]:
    places = {"positions": batch.positions, "segment_ids": batch.segment_ids}
    return measure_transfer(config, params, batch.tokens, **places)
