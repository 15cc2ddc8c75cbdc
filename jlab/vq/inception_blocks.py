"""The blocks of Inception v3: branches over one input, their channels side by side.

Layers have torchvision's names. Each block is a function of `conv`, which makes and applies one
convolution of the block's module, and of the block's input. Source: Szegedy et al. 2016, arXiv
1512.00567, Figures 5 to 7; the poolings of the TensorFlow release of 2015, as in pytorch-fid.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

Images = Float[Array, "b h w c"]


class Mixed(nn.Module):
    """Branches over the same input, their channels side by side."""

    branches: Callable[..., list[Images]]
    narrow: int

    @nn.compact
    def __call__(self, x: Images) -> Images:
        """The block applied."""
        return jnp.concatenate(self.branches(partial(conv_relu, self.narrow), x), axis=-1)


def _block_a(conv: Callable[..., Images], x: Images, pool: int) -> list[Images]:
    return [
        conv(x, "branch1x1", 64),
        _chain(conv, x, "branch5x5", (48,), (64, 5)),
        _chain(conv, x, "branch3x3dbl", (64,), (96, 3), (96, 3)),
        conv(_mean_around(x), "branch_pool", pool),
    ]


def _block_b(conv: Callable[..., Images], x: Images) -> list[Images]:
    return [
        conv(x, "branch3x3", 384, 3, 2),
        _chain(conv, x, "branch3x3dbl", (64,), (96, 3), (96, 3, 2)),
        halved(x),
    ]


def _block_c(conv: Callable[..., Images], x: Images, c7: int) -> list[Images]:
    row, column = (1, 7), (7, 1)
    double = ((c7,), (c7, column), (c7, row), (c7, column), (192, row))
    return [
        conv(x, "branch1x1", 192),
        _chain(conv, x, "branch7x7", (c7,), (c7, row), (192, column)),
        _chain(conv, x, "branch7x7dbl", *double),
        conv(_mean_around(x), "branch_pool", 192),
    ]


def _block_d(conv: Callable[..., Images], x: Images) -> list[Images]:
    return [
        _chain(conv, x, "branch3x3", (192,), (320, 3, 2)),
        _chain(conv, x, "branch7x7x3", (192,), (192, (1, 7)), (192, (7, 1)), (192, 3, 2)),
        halved(x),
    ]


def _block_e(
    conv: Callable[..., Images], x: Images, pool: Callable[[Images], Images]
) -> list[Images]:
    row, column = (1, 3), (3, 1)
    single = conv(x, "branch3x3_1", 384)
    double = _chain(conv, x, "branch3x3dbl", (448,), (384, 3))
    return [
        conv(x, "branch1x1", 320),
        conv(single, "branch3x3_2a", 384, row),
        conv(single, "branch3x3_2b", 384, column),
        conv(double, "branch3x3dbl_3a", 384, row),
        conv(double, "branch3x3dbl_3b", 384, column),
        conv(pool(x), "branch_pool", 192),
    ]


def conv_relu(
    narrow: int,
    x: Images,
    name: str,
    features: int,
    kernel: int | tuple[int, int] = 1,
    stride: int = 1,
    padding: str | None = None,
) -> Images:
    """Convolution and ReLU; a stride of 1 keeps the size where no padding is named."""
    size = (kernel, kernel) if isinstance(kernel, int) else kernel
    padding = padding or ("SAME" if stride == 1 else "VALID")
    make = nn.Conv(features // narrow, size, (stride, stride), padding, name=name)
    return nn.relu(make(x))


def _chain(conv: Callable[..., Images], x: Images, prefix: str, *layers: tuple[Any, ...]) -> Images:
    """One convolution after the other, numbered from 1."""
    for i, layer in enumerate(layers, 1):
        x = conv(x, f"{prefix}_{i}", *layer)
    return x


def halved(x: Images) -> Images:
    """The maximum of every other 3x3."""
    return nn.max_pool(x, (3, 3), (2, 2))


def _mean_around(x: Images) -> Images:
    """Of the 3x3 around each place, as much of it as lies in the image."""
    return nn.avg_pool(x, (3, 3), (1, 1), "SAME", count_include_pad=False)


def _max_around(x: Images) -> Images:
    return nn.max_pool(x, (3, 3), (1, 1), "SAME")


MIXED: dict[str, Callable[..., list[Images]]] = {
    "Mixed_5b": partial(_block_a, pool=32),
    "Mixed_5c": partial(_block_a, pool=64),
    "Mixed_5d": partial(_block_a, pool=64),
    "Mixed_6a": _block_b,
    "Mixed_6b": partial(_block_c, c7=128),
    "Mixed_6c": partial(_block_c, c7=160),
    "Mixed_6d": partial(_block_c, c7=160),
    "Mixed_6e": partial(_block_c, c7=192),
    "Mixed_7a": _block_d,
    "Mixed_7b": partial(_block_e, pool=_mean_around),
    "Mixed_7c": partial(_block_e, pool=_max_around),  # an oversight of the release, kept
}
