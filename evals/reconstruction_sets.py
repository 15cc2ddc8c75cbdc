"""What InceptionV3 says of images, as rows of a store, and two sets of images by it."""

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, PyTree

from jlab.jobs.results import Store
from jlab.vq.image_metrics import (
    Moments,
    frechet_distance,
    inception_score,
    init_moments,
    update_moments,
)
from jlab.vq.inception import inception_features

_SPLITS = 10  # of the inception score
_AT_ONCE = 256  # rows whose features are in memory


def features(params: PyTree, images: Float[Array, "b h w 3"]) -> dict[str, Array]:
    """Of every image what the distances of sets are made of."""
    found = inception_features(params, images)
    return {"pool": found.pool, "probabilities": jax.nn.softmax(found.logits)}


def as_row(found: Mapping[str, Float[np.ndarray, "b d"]], row: int) -> dict[str, str]:
    """The features of one image as JSON: float32 in base64, a third of the digits' length."""
    return {
        name: base64.b64encode(np.asarray(x[row], np.float32).tobytes()).decode()
        for name, x in found.items()
    }


def set_distances(store: Store, keys: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Inception score of every set, and the Frechet distance of the two.

    Args:
      store: of the features.
      keys: of the rows of each set, by its name; equally many.

    Returns:
      By name of the set `inception`, its `deviation` over `splits`; `features`, their number;
      `frechet`, where there are two images or more.
    """
    moments: list[Moments] = []
    found: dict[str, Any] = {}
    for name, own in keys.items():
        classes, known = [], None
        for start in range(0, len(own), _AT_ONCE):
            rows = [store[key] for key in own[start : start + _AT_ONCE]]
            pools = np.stack([_vector(row["pool"]) for row in rows])
            known = update_moments(known or init_moments(pools.shape[1]), pools)
            classes += [_vector(row["probabilities"]) for row in rows]
        splits = min(_SPLITS, len(classes))
        mean, deviation = inception_score(np.stack(classes), splits)
        found[name] = {"inception": mean, "deviation": deviation, "splits": splits}
        moments.append(known)
    found["features"] = len(moments[0].mean)
    if moments[0].count > 1:
        one, other = moments
        found["frechet"] = frechet_distance(one.mean, one.covariance, other.mean, other.covariance)
    return found


def _vector(text: str) -> Float[np.ndarray, "d"]:
    return np.frombuffer(base64.b64decode(text), np.float32)
