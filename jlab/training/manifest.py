"""The manifest of a checkpoint: a checksum of every file, written after the commit.

It is what tells a finished checkpoint from one that a kill cut short or that a disk damaged.
"""

import contextlib
import hashlib
import json
from pathlib import Path

MANIFESTS = "manifests"


def write_manifest(folder: Path, step: int, metrics: dict[str, float]) -> None:
    """Seal a committed checkpoint, and drop the manifests of those that are no longer kept."""
    path = manifest_path(folder, step)
    path.parent.mkdir(exist_ok=True)
    partial = path.with_suffix(".partial")
    seal = {"files": checksums(folder / str(step)), "metrics": metrics}
    partial.write_text(json.dumps(seal, indent=1))
    partial.replace(path)
    for old in path.parent.glob("*.json"):
        if not (folder / old.stem).exists():
            old.unlink()


def newest_whole(folder: Path) -> tuple[int, Path]:
    """Step of the newest undamaged checkpoint, and the path of its manifest.

    Raises:
      FileNotFoundError: there is no checkpoint, or none that is whole.
    """
    steps = sorted((int(p.name) for p in folder.glob("*") if p.name.isdigit()), reverse=True)
    for step in steps:
        if damage(folder, step) is None:
            return step, manifest_path(folder, step)
    raise FileNotFoundError(f"{folder} holds no checkpoint that is whole; it has {steps}")


def whole(folder: Path, step: int) -> int:
    """The step, if its checkpoint is there and undamaged.

    Raises:
      FileNotFoundError: it is not; names those that are there, or the damage.
    """
    steps = sorted(int(path.name) for path in folder.glob("*") if path.name.isdigit())
    if step not in steps:
        raise FileNotFoundError(f"{folder} has no checkpoint of step {step}; it has {steps}")
    harm = damage(folder, step)
    if harm is not None:
        raise FileNotFoundError(f"checkpoint {folder / str(step)} is damaged: {harm}")
    return step


def damage(folder: Path, step: int) -> str | None:
    """What is wrong with a checkpoint's files, in words; None if they match the manifest."""
    try:
        expected = read_manifest(manifest_path(folder, step))["files"]
    except FileNotFoundError:
        return "no manifest: it was never finished"
    except ValueError:
        return "its manifest cannot be read"
    found = checksums(folder / str(step))
    for name, digest in expected.items():
        if name not in found:
            return f"{name} is missing"
        if found[name] != digest:
            return f"{name} does not match its checksum"
    return None


def checksums(folder: Path) -> dict[str, str]:
    """BLAKE2 digest of every file below a folder, by relative path."""
    digests = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16))
        digests[path.relative_to(folder).as_posix()] = digest.hexdigest()
    return digests


def manifest_path(folder: Path, step: int) -> Path:
    """Where the manifest of a step lies."""
    return folder / MANIFESTS / f"{step}.json"


def read_manifest(path: Path) -> dict[str, dict]:
    """`files` (digest by name) and `metrics` of a manifest.

    Raises:
      ValueError: the file is none.
    """
    manifest = json.loads(path.read_text())
    match manifest:
        case {"files": dict(files), "metrics": dict()} if files:
            return manifest
    raise ValueError(f"{path} is not a manifest")


def saved_metrics(folder: Path) -> dict[int, dict[str, float]]:
    """Metrics of the checkpoints below a folder, from the manifests that can be read."""
    metrics = {}
    for path in (folder / MANIFESTS).glob("*.json"):
        with contextlib.suppress(ValueError):
            metrics[int(path.stem)] = read_manifest(path)["metrics"]
    return metrics
