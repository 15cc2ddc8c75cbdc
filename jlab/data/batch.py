"""The one batch type that every training step and evaluation takes."""

from typing import NamedTuple

from jaxtyping import Array, Float, Int, Shaped


class Batch(NamedTuple):
    """Fixed windows of tokens; numpy arrays from the loader, jax arrays in a step."""

    tokens: Int[Array, "batch length"]
    targets: Int[Array, "batch length"]  # the token after each of `tokens`
    mask: Float[Array, "batch length"]  # weight of each target in the loss; 0 leaves it out
    segment_ids: Int[Array, "batch length"]  # document within the window, from 0
    positions: Int[Array, "batch length"]  # position within the document (or the window)
    group: Int[Array, "batch"]  # which group each row was drawn from
    ids: Shaped[Array, "batch"]  # window number within its group: with `group`, names the row

    @property
    def items(self) -> int:
        """Tokens of the batch."""
        return self.tokens.size
