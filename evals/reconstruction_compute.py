"""What a model makes of images, and networks of that, as rows of the store.

Each image goes through the model by itself, so that no number depends on the batch it was in.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from evals.reconstruction_inputs import Inputs, Subject
from evals.reconstruction_sets import as_row, features
from jlab.data import ImageBatch
from jlab.training.mesh import put_batch
from jlab.vq.evaluate import model_variables
from jlab.vq.image_metrics import ssim
from jlab.vq.make import make_quantizer
from jlab.vq.metrics import distortion
from jlab.vq.perceptual import lpips
from jlab.vq.vqvae import VQVAE, Reconstruction

_LATENT = ("error", "norm", "cosine", "obtuse")


class One(NamedTuple):
    """What a model makes of an image."""

    image: Float[Array, "h w c"]  # reconstructed
    values: dict[str, Float[Array, ""]]  # mse, ssim, and where latents have codes |e - q|^2 ...
    levels: dict[str, Float[Array, "levels"]]  # the same by level of a residual quantiser
    ids: Int[Array, "tokens places"]


def reconstructed(
    inputs: Inputs, subject: Subject, images: Float[np.ndarray, "n h w c"]
) -> Float[np.ndarray, "n h w c"]:
    """What the model makes of some images."""
    shown = []
    for start in range(0, len(images), inputs.batch):
        here = np.minimum(np.arange(start, start + inputs.batch), len(images) - 1)
        shown.append(np.asarray(_reconstruct(subject)(images[here]).image, np.float32))
    return np.concatenate(shown)[: len(images)]


def computer(
    inputs: Inputs, subject: Subject
) -> Callable[[ImageBatch, list[str]], Iterator[tuple[str, Callable[[int], dict[str, Any]]]]]:
    """Build `compute(batch, kinds)`, which gives each kind with the row of each image of it."""
    reconstruct = _reconstruct(subject)
    seen, distance = jax.jit(_seen), jax.jit(_distance)

    def compute(batch: ImageBatch, kinds: list[str]) -> Iterator[tuple[str, Callable]]:
        if not kinds:
            return
        images = put_batch(batch, subject.trained.mesh).images
        made = reconstruct(images) if kinds != ["original"] else None
        if "image" in kinds:
            host = jax.device_get(made._replace(image=None))
            yield "image", lambda row: _image_row(host, row)
        if "lpips" in kinds:
            apart = np.asarray(distance(inputs.perceptual.params, images, made.image))
            yield "lpips", lambda row: {"lpips": float(apart[row])}
        for kind, shown in (("reconstruction", made), ("original", One(images, {}, {}, None))):
            if kind in kinds:
                found = jax.device_get(seen(inputs.features.params, shown.image))
                yield kind, partial(as_row, found)

    return compute


def _reconstruct(subject: Subject) -> Callable[[Array], One]:
    trained = subject.trained
    variables = model_variables(trained.state.params, trained.state.extras)
    apply = jax.jit(jax.vmap(_one(trained.model), in_axes=(None, 0)))
    return lambda images: apply(variables, images)


def _one(model: VQVAE) -> Callable[[Mapping[str, PyTree], Array], One]:
    quantizer = make_quantizer(model.config.quantizer, model.config.network.dim)
    places = math.prod(quantizer.places)

    def one(variables: Mapping[str, PyTree], image: Float[Array, "h w c"]) -> One:
        found: Reconstruction = model.apply(variables, image[None])
        # What a file of bytes can hold: decoders overshoot, and networks read images in [-1, 1].
        pixels = jnp.clip(found.images.astype(jnp.float32), -1, 1)
        said = {n: x for n, x in found.quantized.metrics.items() if n in _LATENT}
        levels = {name: x for name, x in said.items() if x.ndim}
        if levels:  # of the sum of all levels
            e, q = (x.reshape(-1, quantizer.dim) for x in (found.latents, found.quantized.out))
            said = distortion(e, q, jnp.ones(len(e), bool))
        values = {
            "mse": jnp.square(found.images.astype(jnp.float32) - image[None]).mean(),
            "ssim": ssim(found.images, image[None]),
            **{name: said[name] for name in _LATENT if name in said},
        }
        return One(pixels[0], values, levels, found.quantized.ids.reshape(-1, places))

    return one


def _seen(params: PyTree, images: Float[Array, "b h w c"]) -> dict[str, Array]:
    return features(params, _colour(images))


def _distance(params: PyTree, images: Array, others: Array) -> Float[Array, "b"]:
    return lpips(params, _colour(images), _colour(others))


def _colour(images: Float[Array, "b h w c"]) -> Float[Array, "b h w 3"]:
    """Gray images in three channels, which the networks read."""
    return jnp.repeat(images, 3, -1) if images.shape[-1] == 1 else images


def _image_row(host: One, row: int) -> dict[str, Any]:
    return {
        **{name: _finite(x[row]) for name, x in host.values.items()},
        "levels": {name: [_finite(y) for y in x[row]] for name, x in host.levels.items()},
        "ids": host.ids[row].tolist(),
    }


def _finite(value: float) -> float | None:
    """JSON has no other numbers; a model that diverged gives NaN."""
    return float(value) if math.isfinite(value) else None
