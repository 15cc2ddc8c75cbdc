"""Images: from an ImageConfig to groups of images of one shape, for training and for validation."""

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from jlab.data.corpus import split_of
from jlab.data.groups import Progress, counter
from jlab.data.image_config import ImageConfig
from jlab.data.image_scan import Examined, examined, shapes
from jlab.data.image_set import ImageSet
from jlab.data.image_sources import ImageSource, Split, open_images
from jlab.data.pixels import Shape


class Images(NamedTuple):
    """Groups of images; the tuples are in the order of `names`."""

    names: tuple[str, ...]
    train: tuple[ImageSet, ...]
    validation: tuple[ImageSet, ...]
    shape: Shape  # height, width, channels of every image
    fingerprints: dict[str, str]  # SHA-256 of each group's images
    skipped: dict[str, int]  # images that could not be read, by group name
    notes: tuple[str, ...]  # what the user should know

    def remarks(self) -> list[str]:
        """What the user should hear before training: doubts, and images left out."""
        left_out = [f"{name}: {n} bad images skipped" for name, n in self.skipped.items() if n]
        return [*self.notes, *left_out]


def load_images(config: ImageConfig, tell: Progress | None = None) -> Images:
    """Open the groups, read every image once, and divide them into training and validation.

    Args:
      config: what to load.
      tell: hears what is being done, and how many images are done.

    Raises:
      ValueError, FileNotFoundError: one line that names the group and file, or the field.
    """
    tell = tell or (lambda doing, done: None)
    sources = _sources(config)
    bad = {name: _Bad(name, config.on_error) for name in sources}
    numbers, shape = _fitting(config, sources, bad)
    train, validation, fingerprints, notes = [], [], {}, []
    for name, source in sources.items():
        listen = counter(tell, f"reading the images of {name}")
        images = examined(source.pixels, numbers[name], bad[name], listen)
        found = _divided(name, source.split, images, config.validation_fraction)
        one = ImageSet(source.pixels, found.train, shape, config.resize, config.flip)
        train.append(one)
        validation.append(
            replace(one, numbers=found.validation, flip=False, many_crops=source.many_crops)
        )
        fingerprints[name] = found.fingerprint
        if not found.signed:
            notes.append(f"{name}: no pixel is below 0; floats are read as in [-1, 1], not [0, 1]")
    return Images(
        names=tuple(sources),
        train=tuple(train),
        validation=tuple(validation),
        shape=shape,
        fingerprints=fingerprints,
        skipped={name: each.count for name, each in bad.items()},
        notes=tuple(notes),
    )


class _Bad:
    """Hears of each image of a group that cannot be read: raises, or counts."""

    def __init__(self, group: str, on_error: str):
        self.group, self.on_error, self.count = group, on_error, 0

    def __call__(self, problem: str) -> None:
        if self.on_error == "raise":
            raise ValueError(
                f'group {self.group!r}: {problem} (on_error "skip" leaves such images out)'
            )
        self.count += 1


def _sources(config: ImageConfig) -> dict[str, ImageSource]:
    entries = [open_images(entry, config.image_field) for entry in config.groups]
    names = [name for name, _ in entries]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"groups: the name {twice[0]!r} is taken; each group needs its own")
    return dict(entries)


def _fitting(
    config: ImageConfig, sources: dict[str, ImageSource], bad: dict[str, _Bad]
) -> tuple[dict[str, Int[np.ndarray, "n"]], Shape]:
    """The images of each group that have a header, and the one shape to which all are cut."""
    numbers, first, channels = {}, None, 1
    for name, source in sources.items():
        side, kept = config.size or source.size, []
        for number, shape in shapes(source.pixels, _used(source, config.max_images), bad[name]):
            where = source.pixels.name(number)
            cut = _cut_size(where, shape, side, config.resize)
            first = first or (where, cut)
            if cut != first[1]:
                raise ValueError(_unlike(first, (where, cut)))
            kept.append(number)
            channels = max(channels, shape[2])
        if not kept:
            raise ValueError(f"group {name!r} has no image that can be read")
        numbers[name] = np.array(kept)
    return numbers, (*first[1], config.channels or channels)


def _used(source: ImageSource, limit: int | None) -> Int[np.ndarray, "n"]:
    if source.split is not None:
        return np.concatenate(source.split)
    count = len(source.pixels) if limit is None else min(limit, len(source.pixels))
    return np.arange(count) * len(source.pixels) // max(count, 1)


def _cut_size(where: str, shape: Shape, side: int | None, resize: bool) -> tuple[int, int]:
    if side is None:
        return shape[:2]
    if min(shape[:2]) < side and not resize:
        raise ValueError(
            f"{where} is {shape[0]} x {shape[1]} pixels, too small for a crop of {side}: give a"
            " smaller --data.size, or --data.resize to enlarge it"
        )
    return side, side


def _unlike(one: tuple[str, tuple[int, int]], other: tuple[str, tuple[int, int]]) -> str:
    sizes = " and ".join(f"{where} is {size[0]} x {size[1]}" for where, size in (one, other))
    return f"{sizes} pixels (height x width); to cut all images to one size: --data.size N"


class _Divided(NamedTuple):
    train: Int[np.ndarray, "n"]
    validation: Int[np.ndarray, "k"]
    fingerprint: str
    signed: bool


def _divided(
    name: str, split: Split | None, images: Iterator[Examined], validation_fraction: float
) -> _Divided:
    """The numbers for training and for validation; copies of an image are on the same side."""
    own = None if split is None else set(split[1].tolist())
    sides, content, signed = ([], []), hashlib.sha256(), False
    for number, digest, has_sign in images:
        if own is None:
            held_out = split_of(digest, validation_fraction, 0.0) == "validation"
        else:
            held_out = number in own
        sides[held_out].append(number)
        content.update(digest)
        signed = signed or has_sign
    total = sum(map(len, sides))
    for side, numbers in zip(("train", "validation"), sides, strict=True):
        if not numbers:
            raise ValueError(
                f"group {name!r}: its {side} split has none of {total} images: add images or"
                f" change validation_fraction, which is {validation_fraction}"
            )
    return _Divided(*map(np.array, sides), content.hexdigest(), signed)
