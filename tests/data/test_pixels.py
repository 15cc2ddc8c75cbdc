"""Image files of every mode become bytes of one channel or three."""

import numpy as np
import pytest
from PIL import Image

from jlab.data.pixels import EncodedPixels
from tests.data.image_files import encoded, noise

COLOUR = noise(1)[0]
GRAY = COLOUR[..., 0]
TWO_COLOURS = np.array([[10, 20, 30], [200, 100, 50]], np.uint8)[(GRAY > 127) * 1]


def one(data):
    return EncodedPixels(1, lambda n: "a.png", lambda n: data)


def palette(transparent):
    """Two colours, one of them transparent."""
    image = Image.new("P", (5, 6))
    image.putdata((GRAY > 127).ravel().tolist())
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.info["transparency"] = transparent
    return image


def with_alpha(array, alpha=7):
    image = Image.fromarray(array)
    image.putalpha(alpha)
    return image


@pytest.mark.parametrize(
    ("image", "kind", "expected"),
    [
        (Image.fromarray(COLOUR), "PNG", COLOUR),
        (Image.fromarray(COLOUR), "BMP", COLOUR),
        (Image.fromarray(COLOUR), "PPM", COLOUR),
        (Image.fromarray(COLOUR), "TIFF", COLOUR),
        (with_alpha(COLOUR), "PNG", COLOUR),
        (Image.fromarray(GRAY), "PNG", GRAY[..., None]),
        (with_alpha(GRAY), "PNG", GRAY[..., None]),
        (Image.fromarray(GRAY > 127), "PNG", (GRAY > 127)[..., None] * np.uint8(255)),
        (Image.fromarray(GRAY.astype(np.uint16) * 257), "PNG", GRAY[..., None]),
        (Image.fromarray(255 - COLOUR).convert("CMYK"), "TIFF", 255 - COLOUR),
        (palette(0), "GIF", TWO_COLOURS),
        (palette(b"\x00\xff"), "PNG", TWO_COLOURS),
    ],
)
def test_a_file_is_decoded_to_bytes_without_alpha(image, kind, expected):
    pixels = one(encoded(image, kind))
    got = pixels.read(0)
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got, expected)
    assert pixels.shape(0) == got.shape


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_lossy_files_are_read_near_what_was_written(kind):
    ramp = np.broadcast_to(np.arange(0, 256, 4, dtype=np.uint8)[:, None], (64, 64))
    got = one(encoded(Image.fromarray(np.stack([ramp] * 3, axis=2)), kind)).read(0)
    # A smooth ramp at the default quality is off by a few levels.
    np.testing.assert_allclose(got[..., 0].astype(int), ramp, atol=8)


def test_more_bits_than_a_pixel_has_are_refused_not_clipped():
    data = encoded(Image.fromarray(GRAY.astype(np.float32)), "TIFF")
    with pytest.raises(
        ValueError, match=r"a.png: cannot be decoded: pixels of mode F have no known"
    ):
        one(data).read(0)


def test_kinds_of_file_that_start_programs_are_not_opened():
    with pytest.raises(ValueError, match=r"not an image of a kind that is read \(PNG, JPEG"):
        one(encoded(Image.fromarray(COLOUR), "EPS")).shape(0)
