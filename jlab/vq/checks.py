"""What configs, quantisers and networks ask of their settings and of the arrays they are given."""

import math

import jax.numpy as jnp
from jaxtyping import Array, Float

Shape = tuple[int, int, int]  # of an image: height, width, channels


def require(condition: bool, name: str, value: object, allowed: str) -> None:
    """Refuses a value by its name: `name must be allowed; got value`."""
    if not condition:
        raise ValueError(f"{name} must be {allowed}; got {value!r}")


def require_not_negative(**values: float) -> None:
    """Refuses what is negative or not finite, by name."""
    for name, value in values.items():
        require(0 <= value < math.inf, name, value, ">= 0 and finite")


def require_sharpness(sharpness: float) -> None:
    """Refuses an inverse temperature that is none."""
    require(0 < sharpness < math.inf, "sharpness", sharpness, "> 0 and finite")


def require_positive(config: object, prefix: str, *names: str) -> None:
    """Refuses values of a config below 1; of a tuple, each of its values."""
    for name in names:
        value = getattr(config, name)
        values = value if isinstance(value, tuple) else (value,)
        require(all(v > 0 for v in values), f"{prefix}.{name}", value, "positive")


def divided(shape: Shape, stride: int, why: str) -> tuple[int, int]:
    """Height and width over `stride`.

    Raises:
      ValueError: they are no multiples of it; `why` says where the stride comes from.
    """
    height, width, _ = shape
    fits = height % stride == 0 and width % stride == 0
    allowed = f"multiples of {stride} ({why})"
    require(fits and height > 0 and width > 0, "image height and width", (height, width), allowed)
    return height // stride, width // stride


def as_input(x: Float[Array, "b ..."], shape: tuple[int, ...], dtype: str) -> Float[Array, "b ..."]:
    """What a network reads, in its compute type.

    Raises:
      ValueError: one example of it has another shape than the network was made for.
    """
    if x.shape[1:] != shape:
        raise ValueError(f"input must have shape [batch, {str(list(shape))[1:]}; got {x.shape}")
    return x.astype(jnp.dtype(dtype))
