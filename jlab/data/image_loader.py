"""ImageLoader: batches of images in proportions that may change at every step."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float, Int, Shaped

from jlab.data.image_set import ImageSet, draw_places
from jlab.data.loader import MixtureLoader


class ImageBatch(NamedTuple):
    """Images of one shape; numpy arrays from the loader, jax arrays in a step."""

    images: Float[Array, "batch height width channels"]  # in [-1, 1]
    mask: Float[Array, "batch"]  # weight of each row; 0 fills up the last batch of an evaluation
    group: Int[Array, "batch"]  # which group each row was drawn from
    ids: Shaped[Array, "batch"]  # image number within its group; of a row that fills up, -1

    @property
    def items(self) -> int:
        """Images of the batch."""
        return len(self.ids)


@dataclass(frozen=True)
class ImageLoader(MixtureLoader):
    """Draws batches of images; seeks, prefetches and repeats itself as `MixtureLoader` does.

    Where a crop lies and whether it is mirrored depends on the seed, the group and how many images
    were drawn from it before, as the order does. `document_mask` means nothing here.

    Example:
      >>> from jlab.data import ImageConfig, load_images
      >>> loader = ImageLoader(load_images(ImageConfig()).train, batch_size=4)
      >>> for batch, state in loader.batches(loader.init(), np.array([1.0]), steps=2):
      ...     print(batch.images.shape, batch.images.dtype, state.drawn)
      (4, 8, 8, 1) float32 [4]
      (4, 8, 8, 1) float32 [8]
    """

    train: tuple[ImageSet, ...]

    def _read(self, plan, rows: slice) -> ImageBatch:
        group, turns = plan.group[rows], plan.turn[rows]
        places = np.empty((len(group), 3))
        for g in np.unique(group):
            places[group == g] = draw_places(self.seed, int(g), turns[group == g])
        return _image_batch(self.train, group, self._ids(plan, rows), places)


def image_evaluation_batches(
    sets: Sequence[ImageSet], batch_size: int, images: int | None = None
) -> Iterator[ImageBatch]:
    """The fixed images of every group, in batches of one shape.

    Args:
      sets: the groups of one split.
      batch_size: rows per batch; the last batch is filled with rows of id -1 and mask 0.
      images: per group, as in `ImageSet.fixed`; None: each image once.
    """
    if batch_size < 1 or (images is not None and images < 1):
        raise ValueError(f"batch_size and images must be at least 1; got {batch_size} and {images}")
    fixed = [one.fixed(images) for one in sets]
    group = np.repeat(np.arange(len(sets)), [len(ids) for ids, _ in fixed])
    ids, places = (np.concatenate(parts) for parts in zip(*fixed, strict=True))
    for start in range(0, len(ids), batch_size):
        here = np.minimum(np.arange(start, start + batch_size), len(ids) - 1)
        batch = _image_batch(sets, group[here], ids[here], places[here])
        batch.mask[len(ids) - start :] = 0
        batch.ids[len(ids) - start :] = -1
        yield batch


def _image_batch(
    sets: Sequence[ImageSet],
    group: Int[np.ndarray, "b"],
    ids: Int[np.ndarray, "b"],
    places: Float[np.ndarray, "b 3"],
) -> ImageBatch:
    images = np.empty((len(ids), *sets[0].shape), np.float32)
    for g in np.unique(group):
        images[group == g] = sets[g].read(ids[group == g], places[group == g])
    mask = np.ones(len(ids), np.float32)
    return ImageBatch(images, mask, group.astype(np.int32), ids.astype(np.int32))
