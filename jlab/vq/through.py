"""Encoder gradients from the decoder's own derivatives, where an estimator guesses: for comparison.

They train the encoder as a plain auto-encoder's while the decoder sees codes, and the paper finds
them worse (Sections 3 and A.3).
"""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Loss = Callable[[Float[Array, "*batch d"]], Float[Array, ""]]  # of the decoder's input


def loss_through(
    loss: Loss,
    e: Float[Array, "*batch d"],
    q: Float[Array, "*batch d"],
    gradient: Literal["hessian", "exact"],
) -> Float[Array, ""]:
    """The loss at the codes, whose gradient with respect to e is a derivative of the loss.

    What the loss closes over, as the decoder's parameters, gets its gradient at q.

    Args:
      loss: of the decoder's input; twice differentiable for "hessian", by forward over reverse.
      e: encoder outputs.
      q: their codes.
      gradient: "hessian": g + H (e - q) with g and H = d2L/dq2 at q, the loss about q to second
        order; "exact": dL/de at e itself, a second pass through the decoder.

    Raises:
      ValueError: another name.

    Source: Section 3 and Appendix A.3.
    """
    if gradient not in ("hessian", "exact"):
        raise ValueError(f"gradient must be hessian or exact; got {gradient!r}")
    fixed_e, fixed_q = jax.lax.stop_gradient((e, q))
    if gradient == "hessian":
        g, change = jax.jvp(jax.grad(loss), (fixed_q,), (fixed_e - fixed_q,))
        found = g + change
    else:
        found = jax.grad(loss)(fixed_e)
    # Zero in value; its gradient with respect to e is `found`.
    linear = (jax.lax.stop_gradient(found) * (e - fixed_e)).sum()
    return loss(fixed_q) + linear.astype(jnp.result_type(found))
