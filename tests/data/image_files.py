"""Small images on disk and in memory, for the tests of image data."""

import io

import numpy as np
from PIL import Image


def noise(n, height=6, width=5, channels=3, seed=0):
    """`n` different images of random bytes, `[n, h, w, c]`."""
    shape = (n, height, width, channels)
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def folder_of(path, images, suffix=".png"):
    """Write images as `000.png`, ... into a new folder; gray where they have one channel."""
    path.mkdir(exist_ok=True)
    for number, image in enumerate(images):
        pixels = image[..., 0] if image.shape[-1] == 1 else image
        Image.fromarray(pixels).save(path / f"{number:03}{suffix}")
    return path


def encoded(image, kind="PNG"):
    """The bytes of an image file."""
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()
