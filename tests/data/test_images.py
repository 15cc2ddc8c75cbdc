"""Groups of images: what is in them, how they are divided, and what is refused."""

import numpy as np
import pytest

from jlab.data import ImageConfig, evaluation_images, load_images
from tests.data.image_files import folder_of, noise


def load(*groups, **fields):
    """With so many held out that no split of some thirty images is empty."""
    return load_images(ImageConfig(groups, **{"validation_fraction": 0.3, **fields}))


def every(images):
    return images.read(np.arange(len(images)))


def test_digits_are_split_by_the_permutation_of_seed_0():
    from sklearn.datasets import load_digits

    images = load("digits")
    assert (images.names, images.shape, images.remarks()) == (("digits",), (8, 8, 1), [])
    order = np.random.RandomState(0).permutation(1797)
    expected = load_digits().images / 8 - 1  # eighths: exact in float32
    np.testing.assert_array_equal(every(images.train[0])[..., 0], expected[order[:1400]])
    np.testing.assert_array_equal(every(images.validation[0])[..., 0], expected[order[1400:]])
    assert every(images.train[0]).dtype == np.float32


def test_photographs_are_cropped_to_32_left_of_column_512_in_training():
    from sklearn.datasets import load_sample_images

    images = load("photographs")
    assert (images.shape, len(images.train[0]), len(images.validation[0])) == ((32, 32, 3), 2, 2)
    photographs = np.stack(load_sample_images().images).astype(np.float32) / 127.5 - 1
    corner = np.full((2, 3), 1 - 1e-9)  # the last place: the lower right corner
    np.testing.assert_array_equal(
        images.train[0].read([0, 1], corner), photographs[:, -32:, 480:512]
    )
    np.testing.assert_array_equal(
        images.validation[0].read([0, 1], corner)[0, :, -1], photographs[0, -32:, -1]
    )
    np.testing.assert_array_equal(
        images.validation[0].read([0, 1], 0 * corner), photographs[:, :32, 512:544]
    )
    assert load("photographs", size=64).shape == (64, 64, 3)


def test_a_folder_is_read_below_and_in_the_order_of_its_paths(tmp_path):
    pixels = noise(40)
    folder_of(tmp_path, pixels[:39])
    folder_of(tmp_path / "sub", pixels[39:])
    (tmp_path / "labels.csv").write_text("no image")
    images = load(f"mine={tmp_path}")
    assert images.shape == (6, 5, 3)
    sets = (*images.train, *images.validation)
    numbers = np.concatenate([one.numbers for one in sets])
    assert sorted(numbers) == list(range(40))
    got = np.concatenate([every(one) for one in sets])
    np.testing.assert_array_equal(got, pixels[numbers].astype(np.float32) / 127.5 - 1)
    assert len(images.validation[0]) == pytest.approx(12, abs=7)  # binomial: sd 2.9


def test_an_image_stays_on_its_side_when_others_come_and_copies_lie_together(tmp_path):
    pixels = noise(60)

    def held_out(images):
        return {image.tobytes() for image in every(images.validation[0])}

    few = load(f"mine={folder_of(tmp_path / 'few', pixels[:30])}", validation_fraction=0.4)
    shuffled = np.concatenate([pixels[::-1], pixels[:10]])
    more = load(f"mine={folder_of(tmp_path / 'more', shuffled)}", validation_fraction=0.4)
    seen = {image.tobytes() for image in every(few.train[0])}
    assert held_out(few) < held_out(more)
    assert seen < {image.tobytes() for image in every(more.train[0])}
    assert not held_out(more) & {image.tobytes() for image in every(more.train[0])}


def test_the_fingerprint_is_that_of_the_content_wherever_it_lies(tmp_path):
    pixels = noise(30)
    one, other = (load(f"mine={folder_of(tmp_path / n, pixels)}").fingerprints for n in "ab")
    pixels[7, 0, 0, 0] ^= 1
    changed = load(f"mine={folder_of(tmp_path / 'c', pixels)}").fingerprints
    assert one == other != changed


def test_at_most_max_images_are_used_spread_over_the_group(tmp_path):
    np.save(tmp_path / "a.npy", noise(90))
    images = load(f"a={tmp_path / 'a.npy'}", max_images=30)
    numbers = np.concatenate([images.train[0].numbers, images.validation[0].numbers])
    assert sorted(numbers) == list(range(0, 90, 3))


def test_sizes_that_differ_are_refused_with_both_files_and_the_way_out(tmp_path):
    folder_of(tmp_path, noise(1))
    folder_of(tmp_path / "sub", noise(1, 7, 9))
    text = (
        rf"{tmp_path}/000.png is 6 x 5 and {tmp_path}/sub/000.png is 7 x 9 pixels .*: --data.size N"
    )
    with pytest.raises(ValueError, match=text):
        load(f"mine={tmp_path}")
    with pytest.raises(
        ValueError, match=r"image .* of digits is 8 x 8 and .*/000.png is 6 x 5 pixels"
    ):
        load("digits", f"mine={tmp_path}")


def test_mixed_sizes_are_cropped_to_one(tmp_path):
    folder_of(tmp_path, noise(20))
    folder_of(tmp_path / "sub", noise(20, 7, 9))
    assert load(f"mine={tmp_path}", size=4).shape == (4, 4, 3)
    with pytest.raises(
        ValueError, match=r"000.png is 6 x 5 pixels, too small for a crop of 6: give"
    ):
        load(f"mine={tmp_path}", size=6)
    grown = load(f"mine={tmp_path}", size=6, resize=True)
    assert grown.shape == (6, 6, 3)
    assert evaluation_images(grown.train[0], 3).shape == (3, 6, 6, 3)


@pytest.mark.parametrize("damage", [lambda data: b"no image", lambda data: data[: len(data) // 2]])
def test_a_file_that_cannot_be_decoded_is_named_or_skipped_and_counted(tmp_path, damage):
    folder_of(tmp_path, noise(30, 40, 40))
    broken = tmp_path / "007.png"
    broken.write_bytes(damage(broken.read_bytes()))
    text = rf"group 'mine': {broken}: cannot be decoded: .* \(on_error \"skip\" leaves such images"
    with pytest.raises(ValueError, match=text):
        load(f"mine={tmp_path}")
    images = load(f"mine={tmp_path}", on_error="skip", validation_fraction=0.2)
    assert images.skipped == {"mine": 1}
    assert images.remarks() == ["mine: 1 bad images skipped"]
    assert sum(map(len, (*images.train, *images.validation))) == 29
    assert 7 not in images.train[0].numbers


def test_a_group_of_nothing_but_broken_files_is_refused(tmp_path):
    (tmp_path / "a.png").write_text("no image")
    with pytest.raises(ValueError, match="group 'mine' has no image that can be read"):
        load(f"mine={tmp_path}", on_error="skip")


def test_a_file_that_goes_away_is_named_when_it_is_drawn(tmp_path):
    images = load(f"mine={folder_of(tmp_path, noise(30))}")
    gone = images.train[0].numbers[0]
    (tmp_path / f"{gone:03}.png").unlink()
    with pytest.raises(ValueError, match=rf"{gone:03}.png: cannot be decoded: .*No such file"):
        images.train[0].read([0])


def test_a_split_without_images_is_refused(tmp_path):
    text = r"group 'mine': its validation split has none of 2 images: add images or change"
    with pytest.raises(ValueError, match=text):
        load(f"mine={folder_of(tmp_path, noise(2))}", validation_fraction=0.01)


def test_gray_becomes_colour_where_any_image_has_colour_unless_told_otherwise(tmp_path):
    gray = f"gray={folder_of(tmp_path / 'gray', noise(30, 8, 8, 1))}"
    assert load(gray).shape == (8, 8, 1)
    colour = f"colour={folder_of(tmp_path / 'colour', noise(30, 8, 8))}"
    images = load(gray, colour)
    assert images.shape == (8, 8, 3)
    one = images.train[0].read([0])
    assert one.std() > 0
    np.testing.assert_array_equal(one, one[..., :1].repeat(3, axis=3))
    forced = load(colour, channels=1)
    assert forced.shape == (8, 8, 1)
    luma = load(colour).train[0].read([3]) @ np.array([0.299, 0.587, 0.114], np.float32)
    np.testing.assert_allclose(forced.train[0].read([3])[..., 0], luma, atol=1e-6)  # float32 sums


def test_preparation_is_told_with_the_images_done():
    told = []
    load_images(ImageConfig(), lambda doing, done: told.append((doing, done)))
    assert told[-1] == ("reading the images of digits", 1797)


def test_a_name_twice_is_refused():
    with pytest.raises(ValueError, match="groups: the name 'digits' is taken"):
        load("digits", "digits")


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"groups": ()}, 'groups must name at least one group, such as "digits"; got none'),
        ({"size": 0}, "size must be at least 1; got 0"),
        ({"max_images": 0}, "max_images must be at least 1; got 0"),
        ({"resize": True}, "resize brings the shorter side to size; size must be given, got None"),
        ({"channels": 2}, "channels must be 1, 3 or None; got 2"),
        ({"validation_fraction": 1.0}, "validation_fraction must be between 0 and 1; got 1.0"),
        ({"on_error": "ignore"}, 'on_error must be "raise" or "skip"; got \'ignore\''),
    ],
)
def test_fields_out_of_range_are_refused_by_name(fields, text):
    with pytest.raises(ValueError, match=text):
        ImageConfig(**fields)
