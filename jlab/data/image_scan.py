"""What is found out about a group's images before training: that each can be read, and its content.

Headers first, so that what does not fit together is refused in seconds; then every image is read
once, which takes about as long as one pass over the data in training.
"""

import hashlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from jlab.data.formats import Bad
from jlab.data.pixels import Pixels, Shape

_SALT = b"jlab image 1\0"
_CHUNK = 1024  # images handed to the threads at once
_SLACK = 1e-5  # what rounding may add to a float of 1
_THREADS = 8  # at most; decoding is outside Python's lock

Tell = Callable[[int], None]  # hears of each piece of work: its images


def shapes(pixels: Pixels, numbers: Int[np.ndarray, "n"], bad: Bad) -> Iterator[tuple[int, Shape]]:
    """Yield the number and the shape of every image whose header can be read."""
    for number in numbers.tolist():
        try:
            shape = pixels.shape(number)
        except ValueError as error:
            bad(str(error))
        else:
            yield number, shape


class Examined(NamedTuple):
    """What one image is, once read."""

    number: int
    digest: bytes  # SHA-256 of its content
    signed: bool  # uint8, or floats of which one is below 0, as they should be


def examined(
    pixels: Pixels, numbers: Int[np.ndarray, "n"], bad: Bad, tell: Tell
) -> Iterator[Examined]:
    """Yield what each image is, of those that can be read.

    Raises:
      ValueError: floats out of range: how the array is scaled, and no one image's fault.
    """
    with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as threads:
        for start in range(0, len(numbers), _CHUNK):
            chunk = numbers[start : start + _CHUNK].tolist()
            for found in threads.map(lambda number: _examine(pixels, number), chunk):
                if isinstance(found, Examined):
                    yield found
                else:
                    bad(found)
            tell(len(chunk))


def _examine(pixels: Pixels, number: int) -> Examined | str:
    try:
        image, content = pixels.read(number), pixels.content(number)
    except (ValueError, OSError) as error:
        return str(error)
    least = 0.0
    if image.dtype != np.uint8:
        least, most = float(image.min()), float(image.max())
        if not (np.isfinite(least) and np.isfinite(most)):
            return f"{pixels.name(number)} has pixels that are NaN or infinite"
        if max(-least, most) > 1 + _SLACK:
            raise ValueError(
                f"{pixels.name(number)} has pixels from {least:g} to {most:g}: floats must be in"
                " [-1, 1], or whole numbers from 0 to 255 of the type uint8"
            )
    signed = image.dtype == np.uint8 or least < 0
    return Examined(number, hashlib.sha256(_SALT + content).digest(), signed)
