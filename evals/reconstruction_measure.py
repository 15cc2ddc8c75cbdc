"""What `python -m evals reconstruction` measures of every image, kept in a store.

Rows are of four kinds: `image` (errors and ids), `lpips`, and what InceptionV3 says of the
`reconstruction` and of the `original`; the last serves all models.
"""

import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Int

from evals.reconstruction_compute import computer
from evals.reconstruction_inputs import Inputs, Subject
from evals.reconstruction_sets import set_distances
from jlab.data import ImageBatch, image_evaluation_batches
from jlab.jobs.results import Store
from jlab.sampling.meter import Meter
from jlab.training.signals import Interrupted

if TYPE_CHECKING:
    from evals.reconstruction import Config


class Measured(NamedTuple):
    """The numbers of all images of a model."""

    subject: Subject
    group: Int[np.ndarray, "n"]
    rows: list[dict[str, Any]]  # `image`, with `lpips` where it is measured
    sets: dict[str, Any] | None  # `set_distances`, where InceptionV3 is given


def measure(
    config: "Config", inputs: Inputs, subject: Subject, store: Store, stop: Callable[[], bool]
) -> Measured:
    """Everything about one model; only what the store lacks is computed.

    Raises:
      Interrupted: as `stop` says; what was computed is stored.
    """
    kinds = {"image": None}
    if inputs.perceptual:
        kinds["lpips"] = inputs.perceptual.digest
    if inputs.features:
        kinds |= dict.fromkeys(("reconstruction", "original"), inputs.features.digest)
    compute = computer(inputs, subject)
    keys: dict[str, list[str]] = {kind: [] for kind in kinds}
    group = []
    total = sum(len(one.fixed(config.images)[0]) for one in subject.sets)
    with Meter(subject.label, "images", total) as meter:
        for batch in image_evaluation_batches(subject.sets, inputs.batch, config.images):
            if stop():
                raise Interrupted(f"stopped at {subject.label}")
            content = _digests(batch)
            own = {
                kind: [store.key(**_decides(kind, network, subject, x)) for x in content]
                for kind, network in kinds.items()
            }
            missing = [kind for kind in kinds if not all(key in store for key in own[kind])]
            for kind, found in compute(batch, missing):
                for row, (key, number) in enumerate(zip(own[kind], batch.ids, strict=False)):
                    if key not in store:
                        said = {"model": subject.label, "image": int(number)}
                        store.append(key, {**said, **found(row)})
            for kind in kinds:
                keys[kind] += own[kind]
            group += batch.group[: len(content)].tolist()
            if not missing:
                meter.done += len(content)
            for _ in content if missing else ():
                meter.add()
    rows = [store[key] for key in keys["image"]]
    for row, key in zip(rows, keys.pop("lpips", []), strict=False):
        row["lpips"] = store[key]["lpips"]
    keys.pop("image")
    return Measured(subject, np.array(group), rows, set_distances(store, keys) if keys else None)


def _decides(kind: str, network: str | None, subject: Subject, image: str) -> dict[str, Any]:
    model = None if kind == "original" else subject.identity
    return {"measure": kind, "model": model, "network": network, "image": image}


def _digests(batch: ImageBatch) -> list[str]:
    """Of the images' pixels, without those that only fill the batch up."""
    return [
        hashlib.blake2b(image.tobytes(), digest_size=16).hexdigest()
        for image in batch.images[batch.ids >= 0]
    ]
