"""How near reconstructions are to their images, one by one and as two sets.

Images are `[b, h, w, c]` in [-1, 1], so that the data range is 2. The distances between sets are
computed in float64 on the host: they take the square root of a covariance whose small eigenvalues
float32 would drown.
"""

from itertools import pairwise
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from jlab.vq.checks import require

RANGE = 2.0  # of pixels in [-1, 1]
WINDOW, SIGMA = 11, 1.5  # of the structural similarity, in pixels
K1, K2 = 0.01, 0.03


def mse(images: Float[Array, "b h w c"], others: Float[Array, "b h w c"]) -> Float[Array, ""]:
    """The mean squared difference, over everything."""
    return _squared_error(images, others).mean()


def psnr(images: Float[Array, "b h w c"], others: Float[Array, "b h w c"]) -> Float[Array, ""]:
    """Peak signal-to-noise ratio in decibel, the mean over images of 10 log10(4 / mse).

    Infinite where one pair is equal.
    """
    per_image = _squared_error(images, others).mean((1, 2, 3))
    return (10 * jnp.log10(RANGE**2 / per_image)).mean()


def ssim(images: Float[Array, "b h w c"], others: Float[Array, "b h w c"]) -> Float[Array, ""]:
    """Structural similarity: 1 for equal images; the mean over images, channels and windows.

    Windows are 11x11, weighed by a Gaussian of deviation 1.5, and lie wholly in the image; in an
    image that is smaller they have the largest odd size that fits.

    Source: Wang et al. 2004, Image Quality Assessment: From Error Visibility to Structural
    Similarity, Section III-B: Equation 13, with means and variances of Equations 14 to 16.
    """
    x, y = _alike(images, others)
    side = min(WINDOW, *x.shape[1:3])
    weights = _gaussian(side - 1 + side % 2)
    mean_x, mean_y = _windows(x, weights), _windows(y, weights)
    var_x = _windows(x * x, weights) - mean_x**2
    var_y = _windows(y * y, weights) - mean_y**2
    cov = _windows(x * y, weights) - mean_x * mean_y
    c1, c2 = (K1 * RANGE) ** 2, (K2 * RANGE) ** 2
    above = (2 * mean_x * mean_y + c1) * (2 * cov + c2)
    below = (mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2)
    return (above / below).mean()


class Moments(NamedTuple):
    """What is known of a stream of features, in float64."""

    count: int
    mean: Float[np.ndarray, "d"]
    scatter: Float[np.ndarray, "d d"]  # sum of outer products of what differs from the mean

    @property
    def covariance(self) -> Float[np.ndarray, "d d"]:
        """The unbiased covariance; raises below two examples."""
        require(self.count > 1, "count", self.count, "at least 2 for a covariance")
        return self.scatter / (self.count - 1)


def init_moments(features: int) -> Moments:
    """Moments of no examples yet, with so many features each."""
    return Moments(0, np.zeros(features), np.zeros((features, features)))


def update_moments(moments: Moments, batch: Float[Array, "b d"]) -> Moments:
    """Moments with a batch of examples added; the order of batches changes roundings only.

    Source: Chan, Golub and LeVeque 1979, Updating Formulae, Equation 1.5.
    """
    x = np.asarray(batch, np.float64)
    d = len(moments.mean)
    require(x.ndim == 2 and x.shape[1] == d, "features", x.shape, f"[batch, {d}]")
    if len(x) == 0:
        return moments
    count = moments.count + len(x)
    mean = x.mean(0)
    apart = mean - moments.mean
    centred = x - mean[None]
    between = np.outer(apart, apart) * (moments.count * len(x) / count)
    scatter = moments.scatter + centred.T @ centred + between
    return Moments(count, moments.mean + apart * (len(x) / count), scatter)


def frechet_distance(
    mean1: Float[np.ndarray, "d"],
    cov1: Float[np.ndarray, "d d"],
    mean2: Float[np.ndarray, "d"],
    cov2: Float[np.ndarray, "d d"],
) -> float:
    """Frechet distance of two Gaussians: |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)), in float64.

    The root's trace is that of (R C2 R)^(1/2), R the root of C1: symmetric, so that no eigenvalue
    is complex; rounding below 0 is cut off.

    Source: Heusel et al. 2017, arXiv 1706.08500, Equation 6.
    """
    mean1, cov1, mean2, cov2 = (np.asarray(x, np.float64) for x in (mean1, cov1, mean2, cov2))
    values, vectors = np.linalg.eigh(cov1)
    root = (vectors * np.sqrt(values.clip(0))[None]) @ vectors.T
    product = root @ cov2 @ root
    shared = np.sqrt(np.linalg.eigvalsh((product + product.T) / 2).clip(0)).sum()
    return float(((mean1 - mean2) ** 2).sum() + np.trace(cov1) + np.trace(cov2) - 2 * shared)


def inception_score(
    probabilities: Float[Array, "n classes"], splits: int = 10
) -> tuple[float, float]:
    """exp of the mean KL(p(y|x) || p(y)) of each split; mean and deviation over splits, float64.

    Between 1, where all images get the same classes, and the number of classes.

    Source: Salimans et al. 2016, arXiv 1606.03498, Section 4; splits as released.
    """
    p = np.asarray(probabilities, np.float64)
    require(0 < splits <= len(p), "splits", splits, f"in [1, {len(p)}], the number of images")
    edges = [i * len(p) // splits for i in range(splits + 1)]
    scores = [_score(p[a:b]) for a, b in pairwise(edges)]
    return float(np.mean(scores)), float(np.std(scores))


def _score(p: Float[np.ndarray, "n classes"]) -> float:
    marginal = np.broadcast_to(p.mean(0, keepdims=True), p.shape)
    log_ratio = np.log(np.where(p > 0, p, 1)) - np.log(np.where(p > 0, marginal, 1))
    return np.exp((p * log_ratio).sum(1).mean())


def _alike(images: Array, others: Array) -> tuple[Array, Array]:
    """Both in at least float32."""
    fits = images.ndim == 4 and images.shape == others.shape
    allowed = f"[batch, height, width, channels] and as others, {others.shape}"
    require(fits, "images", images.shape, allowed)
    wide = jnp.promote_types(jnp.result_type(images, others), jnp.float32)
    return images.astype(wide), others.astype(wide)


def _squared_error(images: Array, others: Array) -> Float[Array, "b h w c"]:
    x, y = _alike(images, others)
    return (x - y) ** 2


def _gaussian(size: int) -> list[float]:
    """Weights of a window along one axis."""
    values = np.exp(-((np.arange(size) - size // 2) ** 2) / (2 * SIGMA**2))
    return (values / values.sum()).tolist()


def _windows(x: Float[Array, "b h w c"], weights: list[float]) -> Float[Array, "b h2 w2 c"]:
    """The weighted mean of each window that lies in the image, axis after axis."""
    for axis in (1, 2):
        n = x.shape[axis] - len(weights) + 1
        # Sums of shifted images: a convolution would round its inputs on some accelerators.
        x = sum(w * lax.slice_in_dim(x, i, i + n, axis=axis) for i, w in enumerate(weights))
    return x
