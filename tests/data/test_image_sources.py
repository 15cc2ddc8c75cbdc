"""What an entry of image groups may be: array files, datasets, and what is refused by name."""

import datasets
import numpy as np
import pytest
from PIL import Image

from jlab.data import ImageConfig, load_images
from jlab.data.image_sources import open_images
from tests.data.image_files import folder_of, noise


def load(entry, **fields):
    """With so many held out that no split of some thirty images is empty."""
    return load_images(ImageConfig((entry,), validation_fraction=0.3, **fields))


def pixels(entry, field=None):
    source = open_images(entry, field)[1]
    return np.stack([source.pixels.read(n) for n in range(len(source.pixels))])


@pytest.mark.parametrize("entry", ["digit", "=a.png", "a=", "stdlib", ""])
def test_another_form_of_entry_is_refused_with_the_allowed_ones(entry):
    text = 'each entry must be "digits" or "photographs" or NAME=PATH or NAME=hf://DATASET'
    with pytest.raises(ValueError, match=rf"{text}.* got {entry!r}"):
        open_images(entry, None)


def test_a_missing_path_and_a_folder_without_images_are_named(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"group 'a': .*/none: no such file, folder or glob"
    ):
        open_images(f"a={tmp_path}/none", None)
    with pytest.raises(FileNotFoundError, match=r"group 'a': .*: the folder has no files"):
        open_images(f"a={tmp_path}", None)
    (tmp_path / "labels.csv").write_text("1")
    with pytest.raises(
        ValueError,
        match=r"group 'a': there is no image among 1 files, such as .*/labels.csv; .*\.png",
    ):
        open_images(f"a={tmp_path}", None)


@pytest.mark.parametrize("shape", [(4, 6, 5), (4, 6, 5, 1), (4, 6, 5, 3)])
def test_arrays_of_bytes_and_floats_are_read_as_they_are(tmp_path, shape):
    array = noise(4, channels=int(np.prod(shape[3:]))).reshape(shape)
    np.save(tmp_path / "a.npy", array)
    np.testing.assert_array_equal(pixels(f"a={tmp_path}/a.npy").reshape(shape), array)
    floats = array.astype(np.float32) / 127.5 - 1
    np.savez(tmp_path / "b.npz", images=floats)
    np.testing.assert_array_equal(pixels(f"a={tmp_path}/b.npz").reshape(shape), floats)


def test_alpha_in_an_array_is_dropped(tmp_path):
    array = noise(4, channels=4)
    np.save(tmp_path / "a.npy", array)
    np.testing.assert_array_equal(pixels(f"a={tmp_path}/a.npy"), array[..., :3])


def test_an_array_file_is_mapped_not_loaded(tmp_path):
    np.save(tmp_path / "a.npy", noise(4))
    array = open_images(f"a={tmp_path}/a.npy", None)[1].pixels.arrays
    while isinstance(array.base, np.ndarray):
        array = array.base
    assert isinstance(array, np.memmap)


def test_the_arrays_of_an_npz_are_chosen_by_name(tmp_path):
    np.savez(tmp_path / "a.npz", x=noise(3), y=np.arange(3))
    assert pixels(f"a={tmp_path}/a.npz", "x").shape == (3, 6, 5, 3)
    with pytest.raises(
        ValueError, match=r"group 'a': .*the arrays are 'x', 'y'; name one of them by"
    ):
        pixels(f"a={tmp_path}/a.npz")
    with pytest.raises(ValueError, match=r"the arrays are 'x', 'y'; image_field is 'z'"):
        pixels(f"a={tmp_path}/a.npz", "z")


@pytest.mark.parametrize(
    ("array", "text"),
    [
        (np.zeros((4, 6, 5), np.int64), r"must be of type uint8, or float in \[-1, 1\]; got int64"),
        (np.zeros((4, 6, 5), bool), r"must be of type uint8, or float in \[-1, 1\]; got bool"),
        (
            np.zeros((6, 5), np.uint8),
            r"must be \[images, height, width\] or .* got the shape \(6, 5\)",
        ),
        (np.zeros((4, 3, 6, 5), np.uint8), r".* 1, 3 or 4 channels; got the shape \(4, 3, 6, 5\)"),
        (np.zeros((4, 0, 5), np.uint8), r".* got the shape \(4, 0, 5\)"),
    ],
)
def test_arrays_of_another_type_or_shape_are_refused_by_name(tmp_path, array, text):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(ValueError, match=rf"group 'a': .*/a.npy: the array {text}"):
        open_images(f"a={tmp_path}/a.npy", None)


def test_an_array_without_images_is_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((0, 6, 5), np.uint8))
    with pytest.raises(ValueError, match="group 'a' has no image that can be read"):
        load(f"a={tmp_path}/a.npy")


def test_pixels_out_of_range_or_not_a_number_are_refused(tmp_path):
    array = np.linspace(-1, 1, 20 * 6 * 5).reshape(20, 6, 5)
    entry = f"a={tmp_path}/a.npy"
    np.save(tmp_path / "a.npy", (array + 1) * 127.5)
    with pytest.raises(
        ValueError, match=r"image \d+ of .*a.npy has pixels from .* floats must be in \[-1, 1\]"
    ):
        load(entry)
    array[3, 2, 1] = np.nan
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(ValueError, match=r"group 'a': image 3 of .*a.npy has pixels that are NaN"):
        load(entry)
    left = load(entry, on_error="skip")
    assert left.skipped == {"a": 1}


def test_what_rounding_adds_to_a_float_is_cut_off_not_refused(tmp_path):
    np.save(tmp_path / "a.npy", (noise(30) / 127.5 - 1) * (1 + 1e-6))
    images = load(f"a={tmp_path}/a.npy")
    assert np.abs(images.train[0].read(np.arange(len(images.train[0])))).max() == 1


def test_floats_that_look_like_zero_to_one_are_remarked_on(tmp_path):
    np.save(tmp_path / "a.npy", noise(30).astype(np.float64) / 255)
    (remark,) = load(f"a={tmp_path}/a.npy").remarks()
    assert remark == "a: no pixel is below 0; floats are read as in [-1, 1], not [0, 1]"


def test_an_array_of_objects_is_never_unpickled(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "went-off"), "w"))

    np.save(tmp_path / "a.npy", np.array([Bomb()]), allow_pickle=True)
    np.savez(tmp_path / "b.npz", images=np.array([Bomb()]), allow_pickle=True)
    (tmp_path / "c.npy").write_bytes(b"\x80\x04K\x01.")  # a pickle without numpy's header
    for name in ("a.npy", "b.npz", "c.npy"):
        with pytest.raises(ValueError, match=f"group 'a': .*/{name}: cannot be read as an array"):
            open_images(f"a={tmp_path}/{name}", None)
    assert not (tmp_path / "went-off").exists()


@pytest.fixture
def hub(monkeypatch):
    """Stands in for the hub: columns in; the arguments of each request to it out."""
    requests = []

    def serve(columns, **kinds):
        def load_dataset(*args, **kwargs):
            requests.append((args, kwargs))
            return datasets.Dataset.from_dict(columns, features=datasets.Features(kinds))

        monkeypatch.setattr(datasets, "load_dataset", load_dataset)
        return requests

    return serve


def test_a_dataset_is_read_from_its_column_of_images(hub):
    array = noise(40)
    columns = {"label": list(range(40)), "picture": [Image.fromarray(image) for image in array]}
    requests = hub(columns, label=datasets.Value("int64"), picture=datasets.Image())
    entry = "web=hf://owner/set?config=small&split=test&revision=v1"
    np.testing.assert_array_equal(pixels(entry), array)
    assert requests == [(("owner/set", "small"), {"split": "test", "revision": "v1"})]
    images = load(entry)
    assert (images.names, images.shape) == (("web",), (6, 5, 3))


def test_several_columns_of_images_or_none_are_named(hub):
    pictures = [Image.fromarray(image) for image in noise(3)]
    hub({"a": pictures, "b": pictures}, a=datasets.Image(), b=datasets.Image())
    with pytest.raises(
        ValueError, match=r"hf://set .*the columns of images are 'a', 'b'; name one"
    ):
        open_images("web=hf://set", None)
    assert pixels("web=hf://set", "b").shape == (3, 6, 5, 3)
    hub({"text": ["one"]}, text=datasets.Value("string"))
    with pytest.raises(ValueError, match="the columns of images are none"):
        open_images("web=hf://set", None)


def test_a_row_without_an_image_is_named_or_skipped(hub):
    pictures = [Image.fromarray(image) for image in noise(30)]
    hub({"picture": [*pictures, None]}, picture=datasets.Image())
    with pytest.raises(
        ValueError, match=r"hf://set \(split 'train'\): row 31: cannot be decoded: the row has none"
    ):
        load("web=hf://set")
    assert load("web=hf://set", on_error="skip").skipped == {"web": 1}


def test_a_dataset_that_cannot_be_reached_is_one_line(monkeypatch):
    def load_dataset(*args, **kwargs):
        raise ConnectionError("Couldn't reach the Hub\nwith a second line")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(
        ValueError, match=r"group 'web': .*cannot be loaded: Couldn't reach the Hub$"
    ):
        open_images("web=hf://owner/set", None)


def test_a_glob_chooses_among_images(tmp_path):
    array = noise(3)
    folder_of(tmp_path, array)
    np.testing.assert_array_equal(pixels(f"a={tmp_path}/00[02].png"), array[[0, 2]])
