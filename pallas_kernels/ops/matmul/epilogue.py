"""What may follow a product while it is in registers: scales, bias, activation, gate, residual.

    pre = row_scale * column_scale * (a @ b) + bias
    y   = gate * activation(pre) + residual

Every part may be left out (None). The arrays are broadcast to the product's shape by the caller:
a kernel does it with its tiles, XLA with whole arrays.
Source: ThunderKittens, released kernels `flux` (gelu, gate) and `gemm/fp8_h100_scaled` (scales).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

ACTIVATIONS = {
    "gelu": lambda x: jax.nn.gelu(x, approximate=True),
    "silu": lambda x: x * jax.nn.sigmoid(x),
    "relu": lambda x: jnp.maximum(x, 0.0),
}


def before(
    product: Float[Array, "m n"],
    row_scale: Float[Array, "m n"] | None = None,
    column_scale: Float[Array, "m n"] | None = None,
    bias: Float[Array, "m n"] | None = None,
) -> Float[Array, "m n"]:
    """What goes into the activation."""
    product = product if row_scale is None else product * row_scale
    product = product if column_scale is None else product * column_scale
    return product if bias is None else product + bias


def after(
    pre: Float[Array, "m n"],
    activation: str | None = None,
    gate: Float[Array, "m n"] | None = None,
) -> Float[Array, "m n"]:
    """The result, but for the residual."""
    y = pre if activation is None else ACTIVATIONS[activation](pre)
    return y if gate is None else gate * y
