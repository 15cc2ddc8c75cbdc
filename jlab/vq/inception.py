"""Inception v3 as the Frechet inception distance and the inception score use it.

The network of Szegedy et al. 2016, arXiv 1512.00567, in the form that comparable numbers need: that
of the TensorFlow release of 2015, whose average poolings leave the border out of the mean and whose
last block pools by the maximum. Layers have torchvision's names. Batch norms of a network that is
only read are constants, and are folded into the convolutions before them when it is loaded.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Float, PyTree

from jlab.hub.vision import as_kernel, load_vision, weight_shape
from jlab.vq.checks import require
from jlab.vq.inception_blocks import MIXED, Mixed, conv_relu, halved

CLASSES = 1008  # of the TensorFlow release
SIZE = 299
LEAST = 75  # pixels a side: one place must be left at the end
_BN_EPSILON = 1e-3
_BN = ("weight", "bias", "running_mean", "running_var")


class Features(NamedTuple):
    """What the network says of images."""

    pool: Float[Array, "b 2048"]  # for the Frechet distance
    logits: Float[Array, "b classes"]  # their softmax is for the inception score


class InceptionV3(nn.Module):
    """The network, its batch norms folded; `inception_features` applies it."""

    classes: int = CLASSES
    narrow: int = 1  # every number of channels is divided by it

    @nn.compact
    def __call__(self, images: Float[Array, "b h w 3"]) -> Features:
        """Features and logits of images in [-1, 1], read at the size that they have.

        Raises:
          ValueError: images below 75x75, of which nothing is left at the end.
        """
        least = min(images.shape[1:3])
        require(least >= LEAST, "image height and width", least, f"at least {LEAST}")
        conv = partial(conv_relu, self.narrow)
        x = conv(images, "Conv2d_1a_3x3", 32, 3, 2)
        x = conv(x, "Conv2d_2a_3x3", 32, 3, padding="VALID")
        x = halved(conv(x, "Conv2d_2b_3x3", 64, 3))
        x = conv(x, "Conv2d_3b_1x1", 80)
        x = halved(conv(x, "Conv2d_4a_3x3", 192, 3, padding="VALID"))
        for name, branches in MIXED.items():
            x = Mixed(branches, self.narrow, name=name)(x)
        pool = x.mean((1, 2))
        return Features(pool, nn.Dense(self.classes, name="fc")(pool))


def inception_features(params: PyTree, images: Float[Array, "b h w 3"]) -> Features:
    """Features and logits of images in [-1, 1], resized to 299x299 as pytorch-fid does.

    Args:
      params: as `load_inception` gives them; their shapes say how wide the network is.
      images: of three channels and any size.

    Raises:
      ValueError: images of another shape.
    """
    fits = images.ndim == 4 and images.shape[-1] == 3
    require(fits, "images", images.shape, "[batch, height, width, 3]")
    narrow = 32 // params["Conv2d_1a_3x3"]["bias"].size
    network = InceptionV3(params["fc"]["bias"].size, narrow)
    return network.apply({"params": params}, resized(images))


def resized(images: Float[Array, "b h w c"]) -> Float[Array, "b 299 299 c"]:
    """Images at the network's size, bilinear, in float32.

    Without antialiasing, though that is better: it is what published distances were taken with.
    """
    size = (len(images), SIZE, SIZE, images.shape[-1])
    return jax.image.resize(images.astype(jnp.float32), size, "bilinear", antialias=False)


def load_inception(path: str | Path, *, classes: int = CLASSES, narrow: int = 1) -> PyTree:
    """Parameters from a safetensors file with torchvision's names, batch norms folded.

    The docstring of `jlab.hub.vision` shows how such a file is made.

    Args:
      path: the file.
      classes: 1008 of the TensorFlow release; 1000 of torchvision's own weights, whose distances
        are not comparable with published ones.
      narrow: every number of channels is divided by it.

    Raises:
      FileNotFoundError, ValueError: one line that names the file and the tensor.
    """
    made = parameter_shapes(classes, narrow)
    shapes: dict[str, tuple[int, ...]] = {}
    for name, layer in made.items():
        if name == "fc":
            shapes |= {"fc.weight": weight_shape(layer["kernel"]), "fc.bias": layer["bias"]}
        else:
            shapes[f"{name}.conv.weight"] = weight_shape(layer["kernel"])
            shapes |= {f"{name}.bn.{part}": layer["bias"] for part in _BN}
    tensors = load_vision(path, shapes)
    leaves = {
        (*name.split("."), part): jnp.asarray(leaf)
        for name in made
        for part, leaf in _ours(tensors, name).items()
    }
    return unflatten_dict(leaves)


def parameter_shapes(
    classes: int = CLASSES, narrow: int = 1
) -> dict[str, dict[str, tuple[int, ...]]]:
    """Shapes of the kernel and bias of every layer, by torchvision's name; nothing is computed."""
    image = jax.ShapeDtypeStruct((1, LEAST, LEAST, 3), jnp.float32)
    made = jax.eval_shape(InceptionV3(classes, narrow).init, jax.random.key(0), image)
    shapes: dict[str, dict[str, tuple[int, ...]]] = {}
    for keys, leaf in flatten_dict(made["params"]).items():
        shapes.setdefault(".".join(keys[:-1]), {})[keys[-1]] = leaf.shape
    return shapes


def fold(
    weight: np.ndarray, scale: np.ndarray, shift: np.ndarray, mean: np.ndarray, var: np.ndarray
) -> dict[str, np.ndarray]:
    """Kernel and bias of a convolution that does what it and the batch norm after it did.

    scale * (x W - mean) / sqrt(var + 1e-3) + shift = x (W s) + (shift - mean s), with
    s = scale / sqrt(var + 1e-3). Source: derived.
    """
    s = scale / np.sqrt(var + _BN_EPSILON)
    return {"kernel": as_kernel(weight) * s[None, None, None], "bias": shift - mean * s}


def _ours(tensors: Mapping[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    """Kernel and bias of a layer from torch's tensors."""
    if name == "fc":
        return {"kernel": as_kernel(tensors["fc.weight"]), "bias": tensors["fc.bias"]}
    parts = (tensors[f"{name}.bn.{part}"] for part in _BN)
    return fold(tensors[f"{name}.conv.weight"], *parts)
