"""Pixels: images by number, from arrays in memory or from files that are decoded as they are read.

What is read is `[height, width, channels]` with one channel or three: uint8, or float in [-1, 1].
Alpha is dropped, 16 bits of gray become 8, of an animation the first frame is taken, and pixels are
as they are stored: an orientation tag turns nothing.
"""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from jaxtyping import Float, UInt8

from jlab.data.formats import reason

Picture = UInt8[np.ndarray, "height width channels"] | Float[np.ndarray, "height width channels"]
Shape = tuple[int, int, int]  # height, width, channels

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
# Only these are tried: some of Pillow's other readers start programs.
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")


class Pixels(Protocol):
    """Images by number, each of its own size."""

    def __len__(self) -> int: ...

    def name(self, number: int) -> str:
        """What a message calls the image."""

    def shape(self, number: int) -> Shape:
        """Its shape, without its pixels where they would have to be decoded."""

    def content(self, number: int) -> bytes:
        """What identifies the image: equal for copies of it."""

    def read(self, number: int) -> Picture:
        """Its pixels.

        Raises:
          ValueError: they cannot be read, with the image's name.
        """


@dataclass(frozen=True, eq=False)
class ArrayPixels:
    """Images in arrays: one of `[n, h, w, c]`, in memory or mapped, or a tuple of `[h, w, c]`."""

    arrays: Sequence[np.ndarray]  # three channels, one, or four of which the last is alpha
    where: str

    def __len__(self) -> int:
        return len(self.arrays)

    def name(self, number: int) -> str:
        """`image 3 of WHERE`, from 0 as in the array."""
        return f"image {number} of {self.where}"

    def shape(self, number: int) -> Shape:
        """Its shape, without alpha."""
        height, width, channels = self.arrays[number].shape
        return height, width, min(channels, 3)

    def content(self, number: int) -> bytes:
        """Its type, shape and bytes."""
        array = self.arrays[number]
        return f"{array.dtype.str} {array.shape}".encode() + array.tobytes()

    def read(self, number: int) -> Picture:
        """Its pixels, without alpha; a view, so that cutting a mapped file reads no more."""
        return self.arrays[number][..., :3]


@dataclass(frozen=True, eq=False)
class EncodedPixels:
    """Images as the bytes of image files."""

    count: int
    name: Callable[[int], str]
    content: Callable[[int], bytes]

    def __len__(self) -> int:
        return self.count

    def shape(self, number: int) -> Shape:
        """From the header."""
        return self._decoded(number, _header)

    def read(self, number: int) -> UInt8[np.ndarray, "height width channels"]:
        """Decoded."""
        return self._decoded(number, _decode)

    def _decoded(self, number: int, decode: Callable):
        try:
            return decode(self.content(number))
        except Exception as error:  # gone, cut short, damaged: Pillow raises many kinds
            said = reason(error)
            raise ValueError(f"{self.name(number)}: cannot be decoded: {said}") from error


def _open(data: bytes):
    from PIL import Image, UnidentifiedImageError

    try:
        return Image.open(io.BytesIO(data), formats=_FORMATS)
    except UnidentifiedImageError:  # its text has only the address of the buffer
        kinds = ", ".join(_FORMATS)
        raise ValueError(f"not an image of a kind that is read ({kinds})") from None


def _header(data: bytes) -> Shape:
    with _open(data) as image:
        return image.height, image.width, 1 if _is_gray(image.mode) else 3


def _is_gray(mode: str) -> bool:
    return mode in ("1", "L", "LA") or mode.startswith("I;16")


def _decode(data: bytes) -> UInt8[np.ndarray, "height width channels"]:
    with _open(data) as image:
        if image.mode in ("I", "F"):
            raise ValueError(
                f"pixels of mode {image.mode} have no known range; save it with 8 bits"
            )
        if image.mode.startswith("I;16"):
            return (np.asarray(image) >> 8).astype(np.uint8)[..., None]
        if _is_gray(image.mode):
            return np.asarray(image.convert("L"))[..., None]
        # By way of RGBA: a palette may have entries that are transparent.
        return np.asarray(image.convert("RGBA").convert("RGB"))
