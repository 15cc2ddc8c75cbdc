"""Cached folders: made once, whole or not there, found damaged when they are.

A folder is built beside its place, described by a manifest (size and SHA-256 of every file) that is
written last and sealed by its own hash, and renamed into place. A build that is killed leaves
nothing that is taken for whole; of two processes that want the same folder, one builds and the
other waits.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

_MANIFEST = "manifest.json"


def cached(folder: Path, build: Callable[[Path], dict]) -> dict:
    """Return what `build` returned when it made `folder`, making it if it is missing or damaged.

    Args:
      folder: its name must be a hash of everything that decides the content.
      build: writes its files into the empty folder that it is given; returns a dict for JSON.

    Raises:
      OSError: the place cannot be written.
    """
    facts = _facts_if_whole(folder)
    if facts is not None:
        return facts
    with _only_one(folder):
        facts = _facts_if_whole(folder)
        if facts is None:
            _make(folder, build)
            facts = _facts_if_whole(folder)
    if facts is None:
        raise OSError(f"{folder}: what was just written there does not read back; check the disk")
    return facts


def key(*parts: object) -> str:
    """Hash of JSON values: the name of a cached folder, the seal of a manifest."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def _facts_if_whole(folder: Path) -> dict | None:
    try:
        manifest, checksum = json.loads((folder / _MANIFEST).read_text())
        whole = checksum == key(manifest) and all(
            (folder / name).stat().st_size == size and _checksum(folder / name) == checksum
            for name, (size, checksum) in manifest["files"].items()
        )
        return manifest["facts"] if whole else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # not there, or no longer what was written


def _make(folder: Path, build: Callable[[Path], dict]) -> None:
    # Left by a killed process: no other builds this folder while we hold its lock.
    for abandoned in folder.parent.glob(f".{folder.name}-*"):
        shutil.rmtree(abandoned, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary:
        made = Path(temporary) / folder.name
        made.mkdir()
        facts = build(made)
        sizes = {p.name: (p.stat().st_size, _checksum(p)) for p in sorted(made.iterdir())}
        manifest = {"facts": facts, "files": sizes}
        (made / _MANIFEST).write_text(json.dumps([manifest, key(manifest)]))
        shutil.rmtree(folder, ignore_errors=True)  # damaged; open maps of it stay valid
        made.rename(folder)


@contextlib.contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = (folder.parent / f"{folder.name}.lock").open("w")
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise type(error)(f"cache_dir: cannot write in {folder.parent}: {reason}") from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the kernel gives it back when the process dies
        yield


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
