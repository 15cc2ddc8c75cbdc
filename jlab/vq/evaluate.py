"""Evaluation of a VQ-VAE on fixed images: errors, and codes counted over all of them."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Bool, Float, Int, PyTree

from jlab.data.image_loader import ImageBatch
from jlab.training.mesh import put_batch
from jlab.training.state import TrainState
from jlab.vq.image_metrics import psnr, ssim
from jlab.vq.make import make_quantizer
from jlab.vq.metrics import MOST_COUNTED, code_counts
from jlab.vq.vqvae import VQVAE


class ImageScores(NamedTuple):
    """Of the evaluation images of every group; the rest over all of them."""

    loss: Float[np.ndarray, "m"]  # mean squared difference of pixels, by group
    values: dict[str, Any]  # psnr, ssim, usage, perplexity, error, relative_error ... numbers

    def metrics(self) -> dict[str, Any]:
        """All but the loss."""
        return self.values


class _Measured(NamedTuple):
    """Of one batch."""

    mse: Float[np.ndarray, "b"]
    psnr: Float[np.ndarray, "b"]
    ssim: Float[np.ndarray, "b"]
    counts: Float[np.ndarray, "places codes"] | None  # of codes, by level or group of the ids
    means: dict[str, Float[np.ndarray, "..."]]  # of the quantiser's metrics, over its tokens


def make_image_evaluate(
    model: VQVAE, batches: Sequence[ImageBatch], groups: int, mesh: Mesh, rows: slice = slice(None)
) -> Callable[[TrainState], ImageScores]:
    """Build `evaluate(state) -> ImageScores` over fixed batches, which stay on the devices.

    Averaged weights are used where the state has them.

    Args:
      model: the module.
      batches: of fixed images.
      groups: of images.
      mesh: the devices.
      rows: of each batch, that this process feeds.
    """
    placed = [put_batch(ImageBatch(*(x[rows] for x in batch)), mesh) for batch in batches]
    group = np.concatenate([np.asarray(batch.group) for batch in batches])
    real = np.concatenate([np.asarray(batch.mask) for batch in batches]) > 0
    measured = jax.jit(_measure(model), out_shardings=NamedSharding(mesh, PartitionSpec()))

    def evaluate(state: TrainState) -> ImageScores:
        variables = model_variables(state.params, state.extras)
        found = jax.device_get([measured(variables, batch) for batch in placed])
        return scores_of(found, group, real, groups)

    return evaluate


def model_variables(params: PyTree, extras: dict) -> dict[str, PyTree]:
    """What the model reads, of a training state: averaged weights where there are any."""
    params = params["model"] if "discriminator" in params else params
    return {"params": extras.get("average", params), "codebook": extras["codebook"]}


def scores_of(
    found: Sequence[_Measured],
    group: Int[np.ndarray, "n"],
    real: Bool[np.ndarray, "n"],
    groups: int,
) -> ImageScores:
    """Scores of all images, in float64, from what was measured of each batch."""
    mse, peak, alike = (
        np.concatenate([getattr(one, name) for one in found]).astype(np.float64)[real]
        for name in ("mse", "psnr", "ssim")
    )
    values = {"psnr": peak.mean(), "ssim": alike.mean(), **_use(found), **_means(found, real)}
    here = group[real]
    return ImageScores(np.bincount(here, mse, groups) / np.bincount(here, minlength=groups), values)


def _use(found: Sequence[_Measured]) -> dict[str, Any]:
    """How the codes are used; nothing of codes that are too many to be counted."""
    if found[0].counts is None:
        return {}
    counts = sum(np.asarray(one.counts, np.float64) for one in found)
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    return {
        "usage": _number((counts > 0).mean(1)),
        "perplexity": _number(np.exp(-(share * np.log(share + 1e-10)).sum(1))),
    }


def _means(found: Sequence[_Measured], real: Bool[np.ndarray, "n"]) -> dict[str, Any]:
    """Means of the quantiser's numbers over all images: each batch counts as many as it has."""
    weight = real.reshape(len(found), -1).sum(1) / real.sum()
    names = ("error", "norm", "cosine", "obtuse")
    means = {
        name: sum(
            w * np.asarray(one.means[name], np.float64)
            for w, one in zip(weight, found, strict=True)
        )
        for name in names
        if name in found[0].means
    }
    if "error" in means:
        means["relative_error"] = means["error"] / np.maximum(means["norm"], 1e-30)
    return means


def _number(values: Float[np.ndarray, "places"]) -> Any:
    """One number, or those of all levels and groups."""
    return values[0] if len(values) == 1 else values


def _measure(model: VQVAE) -> Callable[[dict, ImageBatch], _Measured]:
    quantizer = make_quantizer(model.config.quantizer, model.config.network.dim)
    places = math.prod(quantizer.places)
    count = partial(code_counts, size=quantizer.size)
    psnrs, ssims = (
        jax.vmap(lambda a, b, f=f: f(a[None], b[None])) for f in (psnr, ssim)
    )  # of each image

    def measure(variables: dict[str, PyTree], batch: ImageBatch) -> _Measured:
        found = model.apply(variables, batch.images, batch.mask > 0)
        images, ids = found.images.astype(jnp.float32), found.quantized.ids.reshape(-1, places)
        return _Measured(
            mse=jnp.square(images - batch.images).mean((1, 2, 3)),
            psnr=psnrs(images, batch.images),
            ssim=ssims(images, batch.images),
            counts=jax.vmap(count, in_axes=1)(ids) if quantizer.size <= MOST_COUNTED else None,
            means=found.quantized.metrics,
        )

    return measure
