"""The losses of both steps, of the trained part alone, as the training loop takes them."""

import math
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from jlab.data.batch import Batch
from jlab.linearize.parts import join_maps, with_trained
from jlab.linearize.transfer import by_depth, transfer_loss, weighed
from jlab.nn import TransformerConfig, apply_stack
from jlab.training.config import check_least
from jlab.training.language import language_loss
from jlab.training.partial import LossOf
from jlab.training.residuals import StreamBatch
from jlab.training.state import Aux, Mean


@dataclass(frozen=True)
class TransferLoss:
    """What attention transfer minimises; see `transfer_loss`."""

    mse_factor: float = 1000.0
    """of the squared error of what attention reads"""
    xent_factor: float = 0.0
    """of the cross-entropy of the attention weights, which looks at all pairs of tokens"""
    scale_free: bool = False
    """divide each layer's squared error by the variance of what it is taught, in each slice of a
    batch that is accumulated"""

    def __post_init__(self):
        check_least(self, {"mse_factor": 0, "xent_factor": 0})
        if not 0 < self.mse_factor + self.xent_factor < math.inf:
            raise ValueError(
                "mse_factor and xent_factor must not both be 0, and must be finite; got"
                f" {self.mse_factor} and {self.xent_factor}"
            )

    def factors(self) -> dict[str, Any]:
        """As the keyword arguments of `transfer_loss`."""
        return {
            "mse_factor": self.mse_factor,
            "xent_factor": self.xent_factor,
            "scale_free": self.scale_free,
        }


def transfer_step(config: TransformerConfig, groups: int, loss: TransferLoss) -> LossOf:
    """Step 1, all layers at once: trained `{"maps": ...}`, frozen the other parameters."""

    def loss_of(frozen: PyTree):
        def loss_fn(trained: dict, extras: dict, batch: Batch, key: Array):
            params = with_trained(frozen, trained)["params"]
            places = {"positions": batch.positions, "segment_ids": batch.segment_ids}
            value, found = transfer_loss(config, params, batch.tokens, **places, **loss.factors())
            return value, _told(found, groups, extras)

        return loss_fn

    return loss_of


def block_step(config: TransformerConfig, groups: int, loss: TransferLoss, layers: int) -> LossOf:
    """Step 1 of a block of layers, from the residual stream that enters it.

    Args:
      config: of the block's layers, as `take_stack` gives it, with its `transfer`.
      groups: number of groups.
      loss: what is minimised.
      layers: linearized layers of the whole model, of which its loss is the mean: each map then
        gets the gradient that it gets where all layers are trained at once.
    """

    def loss_of(frozen: PyTree):
        def loss_fn(trained: dict, extras: dict, batch: StreamBatch, key: Array):
            blocks = join_maps(trained["maps"], frozen)
            stream = batch.residual.astype(config.dtype)
            _, sown = apply_stack(config, blocks, stream, batch.positions, batch.segment_ids)
            found = by_depth(config, sown["transfer"])
            return weighed(found, **loss.factors(), layers=layers), _told(found, groups, extras)

        return loss_fn

    return loss_of


def tuning_step(config: TransformerConfig, groups: int) -> LossOf:
    """Step 2: next tokens, by trained `{"lora": ...}`, and `{"maps": ...}` where they learn too."""

    def loss_of(frozen: PyTree):
        return language_loss(config, groups, variables=lambda part: with_trained(frozen, part))

    return loss_of


def _told(found: dict[str, Float[Array, "linearized"]], groups: int, extras: dict) -> Aux:
    """Each layer's part. No group has a loss of its own: what was found is of the whole batch."""
    none = Mean(jnp.zeros(groups), jnp.zeros(groups))
    return Aux({"group_loss": none, **{f"transfer/{k}": x for k, x in found.items()}}, extras)
