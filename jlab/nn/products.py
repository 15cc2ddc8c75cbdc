"""The product of every linear map, plain and with operands rounded to number formats."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jlab.nn.config import PrecisionConfig
from jlab.nn.formats import BlockFormat, Format
from jlab.nn.quant import Axis, fake_quant


def matmul(
    x: Float[Array, "b l inputs"], kernel: Float[Array, "inputs outputs"], out_type: jnp.dtype
) -> Float[Array, "b l outputs"]:
    """`x @ kernel` with all tokens as one matrix.

    The gradient of the kernel is then one plain product as well; with the batch axis kept, XLA on
    CPU runs it as a loop, 1.6 times slower over a whole MLP.
    """
    flat = x.reshape(-1, x.shape[-1])
    return jnp.matmul(flat, kernel, preferred_element_type=out_type).reshape(*x.shape[:-1], -1)


def quantized_matmul(
    x: Float[Array, "b l inputs"],
    kernel: Float[Array, "inputs outputs"],
    out_type: jnp.dtype,
    precision: PrecisionConfig,
    key: Array | None = None,
) -> Float[Array, "b l outputs"]:
    """`matmul` of rounded operands, with the straight-through gradient.

    Backward, dx = g w^T and dw = x^T g read the rounded w and x, or by `precision.residuals` those
    before rounding; g is rounded to `precision.gradients`, with a key stochastically.

    Source: Kumar et al. 2024, arXiv 2411.04330, Appendix D.1; the second kind of residuals is what
    qwix takes by default.
    """
    flat = x.reshape(-1, x.shape[-1])
    y = _product(precision, jnp.dtype(out_type), flat, kernel, key)
    return y.reshape(*x.shape[:-1], -1)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _product(precision: PrecisionConfig, out_type: jnp.dtype, x, kernel, key):
    return _forward(precision, out_type, x, kernel, key)[0]


def round_inputs(
    x: Float[Array, "*tokens inputs"], precision: PrecisionConfig
) -> Float[Array, "*tokens inputs"]:
    """What a linear map reads of `x`."""
    per_token = -1 if precision.activation_scale == "token" else None
    return _rounded(x, precision.format("activations"), per_token, -1)


def _forward(precision: PrecisionConfig, out_type: jnp.dtype, x, kernel, key):
    per_channel = 0 if precision.weight_scale == "channel" else None
    rounded_x = round_inputs(x, precision)
    rounded = _rounded(kernel, precision.format("weights"), per_channel, 0).astype(x.dtype)
    y = jnp.matmul(rounded_x, rounded, preferred_element_type=out_type)
    if precision.residuals == "original":
        rounded_x, rounded = x, kernel.astype(x.dtype)
    # An empty array for the type of the kernel, which its gradient has.
    return y, (rounded_x, rounded, jnp.zeros((0,), kernel.dtype), key)


def _backward(precision: PrecisionConfig, out_type: jnp.dtype, residuals, g):
    x, kernel, like, key = residuals
    keys = (None, None) if key is None else jax.random.split(key)
    g, fmt = g.astype(x.dtype), precision.format("gradients")
    dx = jnp.matmul(_rounded(g, fmt, None, 1, keys[0]), kernel.T)
    dw = jnp.matmul(x.T, _rounded(g, fmt, None, 0, keys[1]))
    return dx, dw.astype(like.dtype), None


_product.defvjp(_forward, _backward)


def _rounded(
    x: Float[Array, "..."],
    fmt: Format | None,
    axis: Axis,
    summed: int,
    key: Array | None = None,
) -> Float[Array, "..."]:
    """An operand, with a scale along `axis`; blocks lie along the axis that the product sums."""
    return fake_quant(x, fmt, summed if isinstance(fmt, BlockFormat) else axis, key=key)
