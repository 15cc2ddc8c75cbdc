"""Where a group's images come from: scikit-learn's, a folder, an array file, a Hugging Face set."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from jlab.data.formats import reason
from jlab.data.pixels import IMAGE_SUFFIXES, ArrayPixels, EncodedPixels, Pixels
from jlab.data.sources import HUB_PREFIX, HubSource, parse_group

_DIGITS_TRAINED = 1400  # of 1797
_COLUMNS_TRAINED = 512  # of 640
_ARRAYS = (".npy", ".npz")

# The numbers of the images for training, and of those for validation.
Split = tuple[Int[np.ndarray, "n"], Int[np.ndarray, "k"]]


class ImageSource(NamedTuple):
    """Images by number, before anything is cut out of them."""

    pixels: Pixels
    split: Split | None = None  # None: told by each image's content
    size: int | None = None  # side of the crop where the user names none
    many_crops: bool = False  # few large images: an evaluation takes many crops of each


def open_images(entry: str, image_field: str | None) -> tuple[str, ImageSource]:
    """Open one entry of `groups`: its name, and its images by number.

    Args:
      entry: a name in `BUILT_IN`, `NAME=PATH` or `NAME=hf://DATASET?config=C&split=S&revision=R`.
      image_field: column of a dataset or array of an `.npz`; None: the only one that there is.

    Raises:
      ValueError: the entry has another form, or what it names does not hold images.
      FileNotFoundError: no file is there.
    """
    if entry in BUILT_IN:
        return entry, BUILT_IN[entry]()
    built_in = " or ".join(f'"{name}"' for name in BUILT_IN)
    name, source = parse_group(entry, image_field or "", built_in)
    try:
        if isinstance(source, HubSource):
            return name, ImageSource(_hub(source, image_field))
        return name, ImageSource(_files(source.paths, image_field))
    except ValueError as error:
        raise ValueError(f"group {name!r}: {error}") from error


def _digits() -> ImageSource:
    from sklearn.datasets import load_digits

    images = load_digits().images.astype(np.float32)[..., None] / 8 - 1
    # numpy promises that RandomState stays the same in every version.
    order = np.random.RandomState(0).permutation(len(images))
    split = order[:_DIGITS_TRAINED], order[_DIGITS_TRAINED:]
    return ImageSource(ArrayPixels(images, "digits"), split)


def _photographs() -> ImageSource:
    from sklearn.datasets import load_sample_images

    photographs = load_sample_images().images
    halves = [photograph[:, :_COLUMNS_TRAINED] for photograph in photographs]
    halves += [photograph[:, _COLUMNS_TRAINED:] for photograph in photographs]
    split = np.arange(len(photographs)), np.arange(len(photographs), len(halves))
    return ImageSource(ArrayPixels(tuple(halves), "photographs"), split, 32, many_crops=True)


BUILT_IN: dict[str, Callable[[], ImageSource]] = {"digits": _digits, "photographs": _photographs}


def _files(paths: tuple[Path, ...], image_field: str | None) -> Pixels:
    if len(paths) == 1 and paths[0].suffix.lower() in _ARRAYS:
        return array_pixels(_load_array(paths[0], image_field), str(paths[0]))
    names = tuple(str(path) for path in paths if path.suffix.lower() in IMAGE_SUFFIXES)
    if not names:
        kinds = ", ".join(IMAGE_SUFFIXES)
        raise ValueError(
            f"there is no image among {len(paths)} files, such as {paths[0]}; what is read is"
            f" {kinds}, or one file {' or '.join(_ARRAYS)}"
        )
    return EncodedPixels(len(names), names.__getitem__, lambda n: Path(names[n]).read_bytes())


def _load_array(path: Path, image_field: str | None) -> np.ndarray:
    try:
        if path.suffix.lower() == ".npy":
            # A plain view of the map: numpy's memmap class makes every read slower.
            return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
        with np.load(path, allow_pickle=False) as arrays:
            names = arrays.files
            chosen = _only(names, image_field, f"{path}: the arrays")
            return arrays[chosen]
    except _NoField:
        raise
    except Exception as error:  # cut short, pickled, no zip: numpy raises many kinds
        pickled = "allow_pickle" in str(error)  # numpy takes any other bytes for a pickle
        why = "no numbers in NumPy's format" if pickled else reason(error)
        raise ValueError(f"{path}: cannot be read as an array: {why}") from error


def array_pixels(array: np.ndarray, where: str) -> ArrayPixels:
    """Images of one array, `[n, h, w]` or `[n, h, w, c]`.

    Raises:
      ValueError: another type or another number of axes or channels.
    """
    if array.dtype != np.uint8 and not np.issubdtype(array.dtype, np.floating):
        raise ValueError(
            f"{where}: the array must be of type uint8, or float in [-1, 1]; got {array.dtype}"
        )
    shaped = array[..., None] if array.ndim == 3 else array
    if shaped.ndim != 4 or shaped.shape[3] not in (1, 3, 4) or 0 in shaped.shape[1:]:
        raise ValueError(
            f"{where}: the array must be [images, height, width] or [images, height, width,"
            f" channels] with 1, 3 or 4 channels; got the shape {array.shape}"
        )
    return ArrayPixels(shaped, where)


def _hub(source: HubSource, image_field: str | None) -> EncodedPixels:
    import datasets

    where = f"{HUB_PREFIX}{source.dataset} (split {source.split!r})"
    try:
        rows = datasets.load_dataset(
            source.dataset, source.config, split=source.split, revision=source.revision
        )
    except Exception as error:  # network, address, split, format: the library raises many kinds
        raise ValueError(f"{where}: cannot be loaded: {reason(error)}") from error
    images = [name for name, kind in rows.features.items() if isinstance(kind, datasets.Image)]
    column = _only(images, image_field, f"{where}: the columns of images")
    rows = rows.select_columns([column]).cast_column(column, datasets.Image(decode=False))

    def content(row: int) -> bytes:
        image = rows[row][column]
        if image is None:
            raise ValueError("the row has none")
        return Path(image["path"]).read_bytes() if image["bytes"] is None else image["bytes"]

    return EncodedPixels(len(rows), lambda row: f"{where}: row {row + 1}", content)


class _NoField(ValueError):
    """What holds the images is not there, or there are several."""


def _only(names: list[str], wanted: str | None, what: str) -> str:
    if wanted in names:
        return wanted
    if wanted is None and len(names) == 1:
        return names[0]
    has = ", ".join(map(repr, names)) or "none"
    asked = "name one of them by image_field" if wanted is None else f"image_field is {wanted!r}"
    raise _NoField(f"{what} are {has}; {asked}")
