"""ImageSet: one split of a group, from which images of one shape are read."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from jlab.data.pixels import Picture, Pixels, Shape

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601: gray of red, green and blue
_EVALUATION_SEED = 0
_CROPS = 1024  # of few large images, where an evaluation does not say how many


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images by number, each read as float32 of `shape` in [-1, 1]: pure but for the files."""

    pixels: Pixels
    numbers: Int[np.ndarray, "n"]  # those of `pixels` that are in this set
    shape: Shape  # of what is read: height, width, channels
    resize: bool = False  # the shorter side to `shape`'s before the crop
    flip: bool = False  # mirror half of what is drawn
    many_crops: bool = False  # few large images: an evaluation takes many crops of each

    def __len__(self) -> int:
        return len(self.numbers)

    def read(
        self, ids: Int[np.ndarray, "b"], places: Float[np.ndarray, "b 3"] | None = None
    ) -> Float[np.ndarray, "b h w c"]:
        """Some of the images, cut to `shape`.

        Args:
          ids: in 0 .. len - 1.
          places: in [0, 1): where the crop lies from top to bottom and from left to right, and
            whether it is mirrored (below 0.5, with `flip`). None: the centre, as it is.

        Raises:
          IndexError: an id that is not in the set.
          ValueError: a file that cannot be decoded, by name.
        """
        ids = np.asarray(ids, np.int64)
        if ids.size and not (ids.min() >= 0 and ids.max() < len(self)):
            raise IndexError(f"ids must be in 0..{len(self) - 1}; got {ids}")
        places = np.full((len(ids), 3), 0.5) if places is None else places
        images = np.empty((len(ids), *self.shape), np.float32)
        for row, (number, place) in enumerate(zip(self.numbers[ids], places, strict=True)):
            images[row] = self._cut(self.pixels.read(int(number)), *place.tolist())
        # What resizing overshoots, and what rounding adds.
        return np.clip(images, -1, 1, out=images)

    def fixed(
        self, limit: int | None = None
    ) -> tuple[Int[np.ndarray, "n"], Float[np.ndarray, "n 3"]]:
        """The ids and places of an evaluation: always the same.

        Each image once at its centre, at most `limit` of them spread evenly over the set; with
        `many_crops`, `limit` crops (None: 1024), of the images in turn, at random places drawn once
        for all.
        """
        if self.many_crops:
            crops = _CROPS if limit is None else limit
            bits = np.random.PCG64(np.random.SeedSequence(_EVALUATION_SEED))
            return np.arange(crops) % len(self), _uniform(bits, crops)
        count = len(self) if limit is None else min(limit, len(self))
        return np.arange(count) * len(self) // count, np.full((count, 3), 0.5)

    def _cut(self, image: Picture, down: float, right: float, mirror: float) -> np.ndarray:
        height, width, channels = self.shape
        if self.resize:
            image = _resized(image, height)
        top = int(down * (image.shape[0] - height + 1))
        left = int(right * (image.shape[1] - width + 1))
        image = _floats(image[top : top + height, left : left + width])
        if self.flip and mirror < 0.5:
            image = image[:, ::-1]
        if channels == 1 and image.shape[2] == 3:
            image = image @ _LUMA[:, None]
        return image  # of one channel where three are needed: the assignment repeats it


def evaluation_images(images: ImageSet, n: int | None = None) -> Float[np.ndarray, "n h w c"]:
    """The images of a set on which every evaluation is made: those of `ImageSet.fixed`."""
    return images.read(*images.fixed(n))


def draw_places(seed: int, group: int, turns: Int[np.ndarray, "b"]) -> Float[np.ndarray, "b 3"]:
    """Random places of crops, each by its turn in the stream of its group and nothing else.

    Args:
      seed: of the loader.
      group: its number.
      turns: the how-manieth image of the group each row is; near one another, as in a batch.
    """
    # The spawn key sets this stream apart from those by which a group is shuffled.
    bits = np.random.PCG64(np.random.SeedSequence([seed, group], spawn_key=(1,)))
    first = int(turns.min())
    bits.advance(3 * first)
    return _uniform(bits, int(turns.max()) - first + 1)[turns - first]


def _uniform(bits: np.random.PCG64, rows: int) -> Float[np.ndarray, "rows 3"]:
    # Raw bits, which numpy promises to keep the same in every version.
    return (bits.random_raw(3 * rows) >> 11).reshape(rows, 3) * 2.0**-53


def _floats(image: Picture) -> Float[np.ndarray, "h w c"]:
    if image.dtype == np.uint8:
        return image.astype(np.float32) / 127.5 - 1
    return image.astype(np.float32, copy=False)


def _resized(image: Picture, side: int) -> Picture:
    """The shorter side to `side`, with the filter widened where it shrinks; bytes stay bytes."""
    from PIL import Image

    height, width = image.shape[:2]
    scale = side / min(height, width)
    size = max(side, round(width * scale)), max(side, round(height * scale))
    if image.dtype != np.uint8:
        image = image.astype(np.float32)
    planes = [Image.fromarray(plane) for plane in np.moveaxis(image, 2, 0)]
    filtered = [plane.resize(size, Image.Resampling.BICUBIC) for plane in planes]
    return np.stack([np.asarray(plane) for plane in filtered], axis=2)
