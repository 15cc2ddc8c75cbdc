"""What the backward pass of a norm gives, whichever kernel makes it."""

from typing import NamedTuple

from jaxtyping import Array, Float


class Gradients(NamedTuple):
    """Of the loss with respect to what a norm was given."""

    dx: Float[Array, "b n dim"]
    dresidual: Float[Array, "b n dim"]  # means nothing where there was no residual
    dweight: Float[Array, "b dim"]  # in float32
    dbias: Float[Array, "b dim"]

    @staticmethod
    def rows_of(words: Array | None, d_total: Array | None) -> tuple[str, ...]:
        """The arrays a kernel writes: `dtotal`, which is dresidual, and dx where that differs."""
        if words is None:
            return ("dtotal",)
        return ("dx",) if d_total is None else ("dtotal", "dx")

    @classmethod
    def of(cls, results: dict[str, Array]) -> "Gradients":
        """From what a kernel wrote, shares of the rows' sums along axis 1 of theirs."""
        dx = results.get("dx", results.get("dtotal"))
        dweight, dbias = results["dweight"].sum(1), results["dbias"].sum(1)
        return cls(dx, results.get("dtotal", dx), dweight, dbias)
