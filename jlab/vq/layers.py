"""The layers of the auto-encoders, started as torch starts its own.

The paper's numbers come from torch, whose `Linear` and `Conv2d` draw weights and biases from
U(-1 / sqrt(fan_in), 1 / sqrt(fan_in)). Each function makes one layer of the module in whose method
it is called, and computes in the type of `x`; parameters are float32.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, PRNGKeyArray


def fan_in_uniform(fan_in: int) -> nn.initializers.Initializer:
    """U(-b, b) with b = 1 / sqrt(fan_in). Source: torch's `reset_parameters` of Linear and Conv."""
    bound = fan_in**-0.5

    def init(key: PRNGKeyArray, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def linear(
    x: Float[Array, "*b inputs"], features: int, name: str, bias: bool = True
) -> Float[Array, "*b features"]:
    """A linear map of the last axis."""
    start = fan_in_uniform(x.shape[-1])
    starts = {"kernel_init": start, "bias_init": start}
    return nn.Dense(features, bias, dtype=x.dtype, name=name, **starts)(x)


def conv(
    x: Float[Array, "b h w inputs"],
    features: int,
    kernel: int,
    name: str,
    stride: int = 1,
    padding: int | tuple[int, int] | None = None,
) -> Float[Array, "b h2 w2 features"]:
    """A convolution with a square kernel.

    Args:
      x: images.
      features: channels of the result.
      kernel: height and width of the kernel.
      name: of the layer.
      stride: of the kernel.
      padding: zeros around the image: as many before as after, or (before, after). By default what
        an odd kernel needs to keep the size.
    """
    padding = kernel // 2 if padding is None else padding
    around = (padding, padding) if isinstance(padding, int) else padding
    start = fan_in_uniform(kernel * kernel * x.shape[-1])
    make = nn.Conv(
        features,
        (kernel, kernel),
        (stride, stride),
        (around, around),
        dtype=x.dtype,
        kernel_init=start,
        bias_init=start,
        name=name,
    )
    return make(x)


def conv_transpose(
    x: Float[Array, "b h w inputs"], features: int, name: str
) -> Float[Array, "b 2*h 2*w features"]:
    """Twice the size: torch's `ConvTranspose2d` with a 4x4 kernel, stride 2, padding 1."""
    # Torch reads the fan-in off the second axis of a weight, here that of the results.
    start = fan_in_uniform(4 * 4 * features)
    # Padding 1 there takes 1 off each side of the full result, to which 3 zeros would lead.
    make = nn.ConvTranspose(
        features,
        (4, 4),
        (2, 2),
        ((2, 2), (2, 2)),
        dtype=x.dtype,
        kernel_init=start,
        bias_init=start,
        name=name,
    )
    return make(x)


def group_norm(x: Float[Array, "b h w c"], groups: int, name: str) -> Float[Array, "b h w c"]:
    """Each example's groups of channels, normalised; statistics in float32."""
    exact = {"epsilon": 1e-6, "use_fast_variance": False}
    return nn.GroupNorm(groups, dtype=x.dtype, name=name, **exact)(x)


class ResBlock(nn.Module):
    """Twice group norm, swish and 3x3, added to the input.

    A 1x1 fits the input where the channels differ. Source: taming-transformers, `ResnetBlock`.
    """

    features: int
    groups: int

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w features"]:
        """The block applied."""
        y = conv(nn.silu(group_norm(x, self.groups, "norm1")), self.features, 3, "conv1")
        y = conv(nn.silu(group_norm(y, self.groups, "norm2")), self.features, 3, "conv2")
        if x.shape[-1] != self.features:
            x = conv(x, self.features, 1, "shortcut")
        return x + y


def attend(
    q: Float[Array, "b l heads dim"],
    k: Float[Array, "b l heads dim"],
    v: Float[Array, "b l heads dim"],
) -> Float[Array, "b l heads dim"]:
    """Softmax attention of all tokens over all tokens; the softmax in float32.

    Not the fused kernels, which have no forward mode: the Hessian estimator pushes a tangent
    through the decoder's gradient.
    """
    scores = jnp.einsum("blhd,bshd->bhls", q, k, preferred_element_type=jnp.float32)
    weights = jax.nn.softmax(scores / math.sqrt(q.shape[-1]), axis=-1)
    return jnp.einsum("bhls,bshd->blhd", weights.astype(v.dtype), v)
