"""Models, images and networks of `python -m evals reconstruction`, checked and read."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
from jaxtyping import PyTree

from jlab.cli import read_json
from jlab.data import ImageConfig, Images, ImageSet, load_images
from jlab.hub.files import file_tensors
from jlab.jobs.results import content_hash
from jlab.training.manifest import newest_whole, read_manifest
from jlab.training.run import tell_stages
from jlab.vq.inception import load_inception
from jlab.vq.perceptual import LEAST, load_lpips
from jlab.vq.training import TrainedVQVAE, restore_vqvae

if TYPE_CHECKING:
    from evals.reconstruction import Config


class Subject(NamedTuple):
    """A model and the images that it is shown."""

    label: str  # its folder below the one that was asked for
    trained: TrainedVQVAE
    identity: str  # digest of what decides its numbers
    step: int  # of its checkpoint
    names: tuple[str, ...]  # of the groups of images
    sets: tuple[ImageSet, ...]


class Network(NamedTuple):
    """A published network and the digest of its file."""

    params: PyTree
    digest: str


class Inputs(NamedTuple):
    """All that is read."""

    subjects: list[Subject]
    features: Network | None
    perceptual: Network | None
    batch: int  # images at work at a time, a multiple of the devices
    fingerprints: dict[str, str]


def read_inputs(config: "Config") -> Inputs:
    """Every VQ-VAE below the folder, its images, and the networks that are asked for.

    Raises:
      FileNotFoundError, ValueError, UsageError: one line.
    """
    root = Path(config.run)
    folders = _vqvaes(root)
    for folder in folders:
        newest_whole(folder / "checkpoints")  # there must be one, before anything is read
    features = _network(config.features, _inception) if config.features else None
    perceptual = _network(config.perceptual, _lpips) if config.perceptual else None
    tell = tell_stages()
    other = None if config.data == ImageConfig() else load_images(config.data, tell)
    for remark in other.remarks() if other else ():
        tell(remark, 0)
    subjects = [_subject(config, root, folder, other) for folder in folders]
    fingerprints: dict[str, str] = {}
    for one in subjects:
        fingerprints |= (other or one.trained.images).fingerprints
        fingerprints[f"model {one.label}"] = one.identity
        if perceptual:
            _check_perceptual(one)
    batch = -(-config.batch // jax.device_count()) * jax.device_count()
    return Inputs(subjects, features, perceptual, batch, fingerprints)


def _vqvaes(root: Path) -> list[Path]:
    if not root.is_dir():
        raise FileNotFoundError(f"run: {root} is not a folder")
    records = {path.parent: read_json(path) for path in sorted(root.rglob("model.json"))}
    found = [folder for folder, record in records.items() if record.get("model") == "vqvae"]
    if not found:
        others = f"; it has {len(records)} other models" if records else ""
        raise FileNotFoundError(f"run: {root} has no VQ-VAE of `python -m train vqvae`{others}")
    return found


def _subject(config: "Config", root: Path, folder: Path, other: Images | None) -> Subject:
    trained = restore_vqvae(folder)
    images, label = other or trained.images, _label(root, folder)
    if images.shape != trained.images.shape:
        raise ValueError(
            f"data: images must have the shape of the model in {folder}, {trained.images.shape}"
            f" (height, width, channels); got {images.shape}"
        )
    sets = getattr(images, config.split)
    # Training images are shown as validation images are: as they are, and few large ones by crops.
    sets = tuple(
        replace(one, flip=False, many_crops=held.many_crops)
        for one, held in zip(sets, images.validation, strict=True)
    )
    step, manifest = newest_whole(folder / "checkpoints")
    decides = {
        "weights": read_manifest(manifest)["files"],
        "config": read_json(folder / "model.json")["config"]["model"],
    }
    return Subject(label, trained, content_hash(decides), step, images.names, sets)


def _label(root: Path, folder: Path) -> str:
    return root.name if folder == root else folder.relative_to(root).as_posix()


def _check_perceptual(subject: Subject) -> None:
    shape = subject.trained.images.shape
    if min(shape[:2]) < LEAST:
        raise ValueError(
            f"perceptual needs images of at least {LEAST} x {LEAST} pixels; those of"
            f" {subject.label} have {shape[0]} x {shape[1]}"
        )


def _network(name: str, load: Any) -> Network:
    path = Path(name).expanduser()
    params = load(path)
    with path.open("rb") as file:
        return Network(params, hashlib.file_digest(file, "blake2b").hexdigest()[:32])


def _inception(path: Path) -> PyTree:
    """The network at the width and with the classes that the file has."""
    sizes = _sizes(path, "Conv2d_1a_3x3.conv.weight", "fc.bias")
    if sizes is None:
        return load_inception(path)
    width, classes = sizes
    return load_inception(path, classes=classes, narrow=max(1, 32 // width))


def _lpips(path: Path) -> PyTree:
    levels = (f"features.{number}.bias" for number in (0, 5, 10, 17, 24))
    sizes = _sizes(path, *levels)
    return load_lpips(path) if sizes is None else load_lpips(path, sizes)


def _sizes(path: Path, *names: str) -> tuple[int, ...] | None:
    """Outputs of some layers; None where the file is none of them: its loader says why."""
    if path.suffix != ".safetensors":
        return None
    stored = file_tensors(path)
    if not all(name in stored and stored[name].shape for name in names):
        return None
    return tuple(max(1, stored[name].shape[0]) for name in names)
