"""Batches of images: exact resumption, rows of hosts, fixed evaluations."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jlab.data import ImageConfig, ImageLoader, image_evaluation_batches, load_images
from jlab.data.image_set import ImageSet
from jlab.data.pixels import ArrayPixels
from tests.data.image_files import folder_of, noise

SETS = tuple(
    ImageSet(ArrayPixels(noise(size, 9, 9, seed=seed), "a"), np.arange(size), (5, 5, 3), flip=True)
    for seed, size in enumerate((7, 2, 30))
)
P = np.array([0.5, 0.3, 0.2])


def loader(**fields):
    return ImageLoader(SETS, **{"batch_size": 4, "seed": 1, **fields})


def assert_same(batches, others):
    for (batch, state), (other, after) in zip(batches, others, strict=True):
        for got, want in zip((*batch, *state), (*other, *after), strict=True):
            np.testing.assert_array_equal(got, want)


@given(st.integers(0, 12), st.integers(1, 64), st.integers(1, 4))
def test_going_on_from_any_saved_state_is_the_unbroken_stream(cut, prefetch, workers):
    whole = list(loader().batches(loader().init(), P, 12))
    other = loader(prefetch=prefetch, workers=workers)
    state = whole[cut - 1][1] if cut else other.init()
    assert_same(other.batches(state, P, 12 - cut), whole[cut:])


def test_hosts_read_their_rows_of_the_same_global_batches():
    one = loader()
    whole = list(one.batches(one.init(), P, 9))
    shares = [list(one.batches(one.init(), P, 9, rows=slice(h, h + 2))) for h in (0, 2)]
    for (batch, state), *parts in zip(whole, *shares, strict=True):
        for field, want in enumerate(batch):
            got = np.concatenate([part[field] for part, _ in parts])
            np.testing.assert_array_equal(got, want)
        for _, after in parts:
            np.testing.assert_array_equal(after.drawn, state.drawn)


def test_the_crops_of_a_group_ignore_what_others_were_given():
    one = loader()
    mixed = list(one.batches(one.init(), P, 10))
    images = np.concatenate([batch.images[batch.group == 0] for batch, _ in mixed])
    alone = list(one.batches(one.init(), [1.0, 0.0, 0.0], 10))
    expected = np.concatenate([batch.images for batch, _ in alone])
    assert len(images) == 20
    np.testing.assert_array_equal(images, expected[:20])


def test_an_image_is_drawn_with_another_crop_each_time():
    one = loader(batch_size=40)
    ((batch, _),) = one.batches(one.init(), [0.0, 1.0, 0.0], 1)
    assert set(batch.ids.tolist()) == {0, 1}
    assert (
        len({image.tobytes() for image in batch.images}) > 25
    )  # of 5 x 5 places, 2 ways, 2 images


def test_a_batch_holds_the_images_that_it_names(tmp_path):
    pixels = noise(40, 8, 8)
    groups = f"a={folder_of(tmp_path, pixels)}", "digits"
    images = load_images(ImageConfig(groups, validation_fraction=0.3))
    one = ImageLoader(images.train, batch_size=6)
    for batch, _ in one.batches(one.init(), [0.5, 0.5], 5):
        assert batch.images.shape == (6, 8, 8, 3)
        assert batch.images.dtype == batch.mask.dtype == np.float32
        assert (batch.mask == 1).all()
        for g, i, image in zip(batch.group, batch.ids, batch.images, strict=True):
            np.testing.assert_array_equal(image, images.train[g].read([i])[0])


def test_epochs_count_the_passes_over_each_group():
    one = loader(batch_size=14)
    ((_, state),) = one.batches(one.init(), [1.0, 0.0, 0.0], 1)
    assert one.epochs(state).tolist() == [2, 0, 0]


def test_evaluation_batches_hold_every_image_once_and_fill_up_the_last():
    batches = list(image_evaluation_batches(SETS, 10, 20))
    assert [batch.images.shape for batch in batches] == [(10, 5, 5, 3)] * 3
    rows = [
        (g, i)
        for batch in batches
        for g, i, weight in zip(batch.group, batch.ids, batch.mask, strict=True)
        if weight
    ]
    wanted = [(g, i) for g in range(3) for i in SETS[g].fixed(20)[0]]
    assert rows == wanted
    assert len(rows) == 29
    assert batches[-1].mask.tolist() == [1] * 9 + [0]
    assert batches[-1].ids[-1] == -1
    again = image_evaluation_batches(SETS, 10, 20)
    for batch, other in zip(batches, again, strict=True):
        np.testing.assert_array_equal(batch.images, other.images)


def test_photographs_are_evaluated_on_as_many_crops_as_are_asked_for():
    validation = load_images(ImageConfig(("photographs",))).validation
    batches = list(image_evaluation_batches(validation, 100, 256))
    assert sum(batch.mask.sum() for batch in batches) == 256
    images = np.concatenate([batch.images[batch.mask > 0] for batch in batches])
    assert len({image.tobytes() for image in images}) > 250


@pytest.mark.parametrize("numbers", [(0, None), (4, 0)])
def test_evaluations_of_nothing_are_refused(numbers):
    with pytest.raises(ValueError, match="batch_size and images must be at least 1; got"):
        list(image_evaluation_batches(SETS, *numbers))
