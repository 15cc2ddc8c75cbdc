"""Crops lie within the images, mirrors are even, evaluations are always the same."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jlab.data.image_set import ImageSet, draw_places, evaluation_images
from jlab.data.pixels import ArrayPixels
from tests.data.image_files import noise

# Each pixel says where it is: rows of the first channel, columns of the second.
HEIGHT, WIDTH = 9, 12
GRID = np.stack([*np.mgrid[:HEIGHT, :WIDTH], np.zeros((HEIGHT, WIDTH))], axis=2).astype(np.uint8)


def of(arrays, shape, **fields):
    return ImageSet(ArrayPixels(arrays, "a"), np.arange(len(arrays)), shape, **fields)


def corner(image):
    """Row and column of the crop's first pixel."""
    return tuple(np.round((image[0, 0, :2] + 1) * 127.5).astype(int).tolist())


@given(st.integers(1, HEIGHT), st.integers(1, WIDTH), st.integers(0, 2**32), st.integers(0, 10**6))
def test_a_crop_lies_within_its_image_and_is_whole(height, width, seed, turn):
    images = of([GRID], (height, width, 3))
    (crop,) = images.read([0], draw_places(seed, 0, np.array([turn])))
    top, left = corner(crop)
    expected = GRID[top : top + height, left : left + width].astype(np.float32) / 127.5 - 1
    np.testing.assert_array_equal(crop, expected)


def test_every_place_is_drawn_about_as_often():
    images = of([GRID], (7, 10, 3))  # 3 x 3 places
    crops = images.read(np.zeros(9000, int), draw_places(0, 0, np.arange(9000)))
    places, counts = np.unique([corner(crop) for crop in crops], axis=0, return_counts=True)
    assert len(places) == 9
    np.testing.assert_allclose(counts, 1000, atol=150)  # 5 standard deviations


def test_half_of_the_draws_are_mirrored_and_only_where_asked():
    places = draw_places(3, 1, np.arange(4000))
    turned = of([GRID], (HEIGHT, WIDTH, 3), flip=True).read(np.zeros(4000, int), places)
    columns = np.round((turned[:, 0, :, 1] + 1) * 127.5)
    mirrored = (columns == np.arange(WIDTH)[::-1]).all(axis=1)
    assert (mirrored | (columns == np.arange(WIDTH)).all(axis=1)).all()
    assert mirrored.mean() == pytest.approx(0.5, abs=0.04)  # 5 standard deviations
    # Over both, the picture is symmetric.
    np.testing.assert_allclose(turned.mean(0), turned.mean(0)[:, ::-1], atol=0.01)
    plain = of([GRID], (HEIGHT, WIDTH, 3)).read(np.zeros(4000, int), places)
    assert (plain == plain[0]).all()


@given(st.integers(0, 10**9), st.lists(st.integers(0, 500), min_size=1, max_size=20))
def test_the_place_of_a_turn_is_the_same_whatever_is_drawn_with_it(first, offsets):
    turns = first + np.array(offsets)
    together = draw_places(5, 2, turns)
    alone = np.concatenate([draw_places(5, 2, turns[row : row + 1]) for row in range(len(turns))])
    np.testing.assert_array_equal(together, alone)


def test_seeds_groups_and_turns_have_places_of_their_own():
    drawn = [draw_places(s, g, np.arange(50)) for s in (0, 1) for g in (0, 1)]
    assert len({place.tobytes() for places in drawn for place in places}) == 200


def test_without_places_the_centre_is_read():
    (crop,) = of([GRID], (3, 4, 3)).read([0])
    assert corner(crop) == (3, 4)  # (9 - 3) / 2 and (12 - 4) / 2
    flipped = of([GRID], (3, 4, 3), flip=True).read([0])[0]
    np.testing.assert_array_equal(flipped, crop)


def test_an_evaluation_takes_each_image_once_spread_over_the_set():
    images = of(noise(10), (4, 4, 3))
    assert images.fixed(5)[0].tolist() == [0, 2, 4, 6, 8]
    assert images.fixed()[0].tolist() == images.fixed(99)[0].tolist() == list(range(10))
    np.testing.assert_array_equal(evaluation_images(images, 2), images.read([0, 5]))


def test_an_evaluation_of_large_images_takes_many_fixed_crops_of_each_in_turn():
    images = of([GRID, GRID + 100], (3, 3, 3), many_crops=True)
    crops = evaluation_images(images, 40)
    assert images.fixed(4)[0].tolist() == [0, 1, 0, 1]
    assert len(images.fixed()[0]) == 1024
    assert len({corner(crop) for crop in crops}) > 20
    np.testing.assert_array_equal(crops, evaluation_images(images, 40))
    np.testing.assert_array_equal(crops[:7], evaluation_images(images, 7))


def test_resizing_brings_the_shorter_side_to_the_crop_and_keeps_values():
    flat = np.full((30, 60, 3), 200, np.uint8)
    images = of([flat, flat.transpose(1, 0, 2)], (10, 10, 3), resize=True)
    np.testing.assert_allclose(images.read([0, 1]), 200 / 127.5 - 1, atol=1e-6)


@pytest.mark.parametrize("bright", [np.uint8(255), np.float16(1)])
def test_a_resized_image_is_drawn_from_end_to_end(bright):
    halves = np.full((30, 60, 1), bright)
    halves[:, :30] = 0 if bright == 255 else -1
    images = of([halves], (10, 10, 1), resize=True)
    ends = np.array([[0.5, 0, 0.5], [0.5, 0.999, 0.5]])
    left, right = images.read([0, 0], ends)
    # 20 columns: the crops are all dark and all bright, but for the filter's reach at the edge.
    assert left[:, :8].max() < -0.99
    assert right[:, 2:].min() > 0.99
    assert -1 <= left.min() <= right.max() <= 1


def test_floats_and_bytes_say_the_same():
    pixels = noise(4)
    floats = pixels.astype(np.float64) / 127.5 - 1
    np.testing.assert_allclose(
        of(pixels, (4, 4, 3)).read([2]), of(floats, (4, 4, 3)).read([2]), atol=1e-6
    )


@pytest.mark.parametrize("ids", [[4], [-1], [0, 9]])
def test_an_id_that_is_not_there_is_refused(ids):
    with pytest.raises(IndexError, match=r"ids must be in 0..3; got"):
        of(noise(4), (4, 4, 3)).read(ids)
