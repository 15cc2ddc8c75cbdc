"""LPIPS: the distance of two images as a trained network sees them.

Both images go through VGG16; after the last ReLU before each pooling (and after the last of all)
every place's features are scaled to length 1, and their squared differences are weighed by learned
numbers >= 0, one per channel. Source: Zhang et al. 2018, arXiv 1801.03924, Equation 1; version 0.1
of the released code. VQGAN's perceptual loss is this distance.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Float, PyTree

from jlab.hub.vision import as_kernel, load_vision, weight_shape
from jlab.vq.checks import require

# Torchvision's numbers of VGG16's convolutions, level by level; a pooling between levels.
_NUMBERS = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))
WIDTHS = (64, 128, 256, 512, 512)
LEAST = 2 ** (len(WIDTHS) - 1)  # pixels a side: one place must be left after the poolings
# What torchvision's mean and deviation become for pixels in [-1, 1], as released.
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)


class LPIPS(nn.Module):
    """The network; `lpips` applies it."""

    widths: tuple[int, ...] = WIDTHS

    @nn.compact
    def __call__(
        self, images: Float[Array, "b h w 3"], others: Float[Array, "b h w 3"]
    ) -> Float[Array, "b"]:
        """The distance of each pair."""
        both = jnp.concatenate([images, others])
        taps = _VGG16(self.widths, name="features")((both - _rgb(_SHIFT)) / _rgb(_SCALE))
        total = jnp.zeros(len(images), both.dtype)
        for i, features in enumerate(taps):
            one, other = jnp.split(_unit(features), 2)
            # One number per channel, as a 1x1 convolution; a new network weighs them alike.
            head = nn.Dense(1, use_bias=False, kernel_init=nn.initializers.ones, name=f"lin{i}")
            total += head((one - other) ** 2).mean((1, 2, 3))
        return total


def lpips(
    params: PyTree, images: Float[Array, "b h w 3"], others: Float[Array, "b h w 3"]
) -> Float[Array, "b"]:
    """The perceptual distance of each pair of images in [-1, 1]; no gradient reaches `params`.

    Args:
      params: as `load_lpips` gives them; their shapes say how wide the network is.
      images: at least 16x16, of three channels.
      others: images of the same shape.

    Raises:
      ValueError: images of another shape.

    Source: arXiv 1801.03924, Equation 1.
    """
    allowed = f"[batch, height, width, 3] of at least {LEAST}x{LEAST}"
    fits = images.ndim == 4 and images.shape[-1] == 3 and min(images.shape[1:3]) >= LEAST
    require(fits, "images", images.shape, allowed)
    require(others.shape == images.shape, "others", others.shape, f"as images, {images.shape}")
    widths = tuple(params["features"][str(level[0])]["bias"].size for level in _NUMBERS)
    frozen = {"params": jax.lax.stop_gradient(params)}
    return LPIPS(widths).apply(frozen, images.astype(jnp.float32), others.astype(jnp.float32))


def load_lpips(path: str | Path, widths: tuple[int, ...] = WIDTHS) -> PyTree:
    """Parameters from a safetensors file with VGG16 and the weights of LPIPS.

    The tensors are `features.N.weight`, `features.N.bias` and `linN.model.1.weight`; the docstring
    of `jlab.hub.vision` shows how such a file is made.

    Raises:
      FileNotFoundError, ValueError: one line that names the file and the tensor.
    """
    image = jax.ShapeDtypeStruct((1, LEAST, LEAST, 3), jnp.float32)
    made = jax.eval_shape(LPIPS(widths).init, jax.random.key(0), image, image)["params"]
    leaves = {_torch_name(keys): (keys, leaf.shape) for keys, leaf in flatten_dict(made).items()}
    shapes = {name: _torch_shape(shape) for name, (_, shape) in leaves.items()}
    tensors = load_vision(path, shapes)
    # A head's 1x1 convolution is a matrix here.
    ours = {name: as_kernel(tensor).reshape(leaves[name][1]) for name, tensor in tensors.items()}
    return unflatten_dict({leaves[name][0]: jnp.asarray(tensor) for name, tensor in ours.items()})


class _VGG16(nn.Module):
    """The convolutions of VGG16, and what each level gives."""

    widths: tuple[int, ...]

    @nn.compact
    def __call__(self, x: Float[Array, "b h w 3"]) -> list[Float[Array, "b h2 w2 c"]]:
        taps = []
        for width, numbers in zip(self.widths, _NUMBERS, strict=True):
            x = nn.max_pool(x, (2, 2), (2, 2)) if taps else x
            for number in numbers:
                x = nn.relu(nn.Conv(width, (3, 3), padding=1, name=str(number))(x))
            taps.append(x)
        return taps


def _unit(x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """Each place's features over their length; 0, without a gradient, where all are 0."""
    squares = (x**2).sum(-1, keepdims=True)
    none = squares == 0
    return jnp.where(none, 0, x / (jnp.sqrt(jnp.where(none, 1, squares)) + 1e-10))


def _rgb(values: tuple[float, ...]) -> Float[Array, "1 1 1 3"]:
    return jnp.asarray(values)[None, None, None]


def _torch_name(keys: tuple[str, ...]) -> str:
    """`features.0.weight` of ("features", "0", "kernel"); `lin0.model.1.weight` of a head."""
    module, kind = ".".join(keys[:-1]), "bias" if keys[-1] == "bias" else "weight"
    return f"{module}.{kind}" if module.startswith("features") else f"{module}.model.1.{kind}"


def _torch_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    if len(shape) == 1:
        return shape  # a bias
    return weight_shape(shape if len(shape) == 4 else (1, 1, *shape))
