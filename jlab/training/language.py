"""The language-model loss, and its evaluation per group."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, PyTree

from jlab.data.batch import Batch
from jlab.nn import Transformer, TransformerConfig
from jlab.nn.losses import cross_entropy
from jlab.training.mesh import put_batch
from jlab.training.state import Aux, Mean
from jlab.training.step import LossFn

Variables = Callable[[PyTree], dict[str, PyTree]]  # of what is trained: all that the model reads


def whole(params: PyTree) -> dict[str, PyTree]:
    """The variables of a model of which everything is trained."""
    return {"params": params}


def language_loss(
    config: TransformerConfig, groups: int, z_loss: float = 0.0, variables: Variables = whole
) -> LossFn:
    """Mean next-token loss in nats, and the loss of each group of the batch.

    `extras["loss_weights"]` (`[groups]`), where present, weighs the rows of each group.

    Args:
      config: the model; dropout and stochastic rounding draw from the step's key.
      groups: number of groups m.
      z_loss: coefficient of logsumexp(logits)^2, which keeps logits near zero.
      variables: the model's variables from what is trained of it.

    Returns:
      A loss function for `make_train_step`; its metrics: `group_loss[m]` (mean over the rows of
      each group of their mean token loss; NaN for a group that the batch lacks). The loss is a
      mean over targets, by their weights: `Aux.weight` of them.
    """

    def loss_fn(params: PyTree, extras: dict, batch: Batch, key: Array):
        drops = config.lora is not None and config.lora.dropout > 0
        random = drops or config.precision.stochastic
        loss = token_loss(config, variables(params), batch, z_loss, key if random else None)
        weight = batch.mask
        if "loss_weights" in extras:
            weight = weight * extras["loss_weights"][batch.group][:, None]
        total = weight.sum()
        mean = (loss * weight).sum() / jnp.where(total > 0, total, 1.0)
        targets = batch.mask.sum(-1)
        rows = (loss * batch.mask).sum(-1) / jnp.maximum(targets, 1.0)
        member = (batch.group[:, None] == jnp.arange(groups)[None, :]) & (targets != 0)[:, None]
        # Not a product: a NaN in one row must not reach the other groups.
        by_group = Mean(jnp.where(member, rows[:, None], 0.0).sum(0), member.sum(0))
        return mean, Aux({"group_loss": by_group}, extras, total)

    return loss_fn


def token_loss(
    config: TransformerConfig,
    variables: dict[str, PyTree],
    batch: Batch,
    z_loss: float = 0.0,
    key: Array | None = None,
) -> Float[Array, "batch length"]:
    """Loss of every target in nats, masked or not; attention stays within segments.

    With a key, adapters drop parts of what they read, and gradients may be rounded at random.
    """
    rngs = None if key is None else {"dropout": key, "round": jax.random.fold_in(key, 1)}
    inputs = (batch.tokens, batch.positions, batch.segment_ids)
    output = Transformer(config).apply(variables, *inputs, rngs=rngs)
    return cross_entropy(output.logits, batch.targets, z_loss)


class GroupLosses(NamedTuple):
    """Losses of an evaluation split, per group, in float64."""

    loss: Float[np.ndarray, "m"]  # mean over windows of their mean token loss, in nats
    nats_per_token: Float[np.ndarray, "m"]  # mean over tokens; the base of bits per byte
    windows: Float[np.ndarray, "m"]  # windows evaluated

    def metrics(self) -> dict[str, np.floating]:
        """Perplexity, its mean over groups."""
        return {"perplexity": np.exp(self.loss).mean()}


def make_evaluate(
    config: TransformerConfig,
    batches: Sequence[Batch],
    groups: int,
    mesh: Mesh,
    rows: slice = slice(None),
    variables: Variables = whole,
) -> Callable[[PyTree], GroupLosses]:
    """Build `evaluate(params) -> GroupLosses` over fixed batches; `variables` as in the loss.

    The batches stay on the devices; of each, this process feeds `rows`. Sums are float64 on the
    host, because a mixing method takes differences of these losses that are a hundredth of a nat.

    Source: the protocol of Aioli, section 6: per-group loss = mean over sequences of the
    per-sequence mean token loss.
    """
    placed = [put_batch(Batch(*(x[rows] for x in batch)), mesh) for batch in batches]
    group = np.concatenate([np.asarray(batch.group) for batch in batches])
    row_sums = make_row_sums(config, mesh)

    def evaluate(params: PyTree) -> GroupLosses:
        sums = jax.device_get([row_sums(variables(params), batch) for batch in placed])
        nats, tokens = (np.concatenate(part).astype(np.float64) for part in zip(*sums, strict=True))
        real = tokens > 0  # rows that only fill up the last batch have no tokens

        def total(values):
            return np.bincount(group[real], values[real], minlength=groups)

        windows = total(np.ones_like(nats))
        means = total(nats / np.maximum(tokens, 1)) / windows
        return GroupLosses(means, total(nats) / total(tokens), windows)

    return evaluate


@lru_cache(maxsize=8)
def make_row_sums(config: TransformerConfig, mesh: Mesh) -> Callable:
    """Build `(variables, batch) -> (nats[b], tokens[b])`: loss and number of targets of each row.

    Compiled, once for all evaluations of a process; the results are whole on every process.
    """

    def row_sums(variables: dict[str, PyTree], batch: Batch):
        return (token_loss(config, variables, batch) * batch.mask).sum(-1), batch.mask.sum(-1)

    return jax.jit(row_sums, out_shardings=NamedSharding(mesh, PartitionSpec()))
