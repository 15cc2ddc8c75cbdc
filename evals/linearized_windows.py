"""The windows of text that `python -m evals linearized` shows to every model."""

import hashlib
from typing import TYPE_CHECKING, NamedTuple

import jax
import numpy as np
from jaxtyping import Int

from jlab.data import Batch, Groups, evaluation_batches

if TYPE_CHECKING:
    from evals.linearized import Config


class Windows(NamedTuple):
    """The windows of all groups, and those behind the measures of layers."""

    names: tuple[str, ...]  # of the groups
    batches: list[Batch]
    digests: list[list[str]]  # of the rows of each batch; none for rows that fill the last one up
    group: Int[np.ndarray, "windows"]  # number of each window's group
    layers: list[Batch]  # one of each group, behind the measures of layers


def read_windows(groups: Groups, config: "Config", document_mask: bool) -> Windows:
    """Windows spread evenly over each group, in batches that the devices share evenly."""
    packed = getattr(groups, config.split)
    size = -(-config.batch // jax.device_count()) * jax.device_count()
    batches = list(evaluation_batches(packed, size, config.limit, document_mask))
    shown = min(config.layer_windows, *map(len, packed))
    return Windows(
        groups.names,
        batches,
        [digests(batch) for batch in batches],
        np.concatenate([batch.group[batch.ids >= 0] for batch in batches]),
        [next(evaluation_batches([one], shown, shown, document_mask)) for one in packed],
    )


def digests(batch: Batch) -> list[str]:
    """Of the rows' contents, without those that only fill the batch up."""
    real = int((batch.ids >= 0).sum())
    parts = (batch.tokens, batch.targets, batch.mask, batch.segment_ids, batch.positions)
    return [
        hashlib.blake2b(b"".join(part[row].tobytes() for part in parts), digest_size=16).hexdigest()
        for row in range(real)
    ]
