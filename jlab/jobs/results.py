"""The append-only store of results that samplers, graders and evaluations write as they go.

A store is a folder: `settings.json`, written once, and JSON lines in shards, one per process that
writes at the same time. A record's key is a hash of what determines its content, so a job that was
stopped asks `key in store` and computes what is missing, in whatever order and by however many
processes; none is lost, and one that several processes computed counts once:

    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> with open_store(folder.name, {"temperature": 0.6}) as store:
    ...     for sample in range(2):
    ...         key = store.key(prompt="1+1=", sample=sample)
    ...         if key not in store:
    ...             store.append(key, {"sample": sample, "text": "2"})
    ...     print(store.count(), store[key])
    2 {'sample': 1, 'text': '2'}
    >>> folder.cleanup()

A record is with the kernel when `append` returns, so a killed process loses none; it is on the disk
`sync_seconds` later at most, or when the store is closed, so a power failure loses only those.
A line that a kill cut short has no end and is not a record; the next writer of its shard removes
it. Every line carries a checksum, and one that fails it is refused by file and number.
"""

import fcntl
import hashlib
import itertools
import json
import os
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

KEY_BYTES = 16
_HEAD = b'{"crc":"%08x",'  # then "key":"...","row":{...}}, of which it is the checksum
_CHECKED = 18  # length of the head
_KEY = slice(25, 25 + 2 * KEY_BYTES)


class _Read(NamedTuple):
    """How far a shard has been read."""

    end: int = 0  # bytes, all of them whole lines
    lines: int = 0


def content_hash(value: Any) -> str:
    """Hex digest of a JSON value; equal for equal values, whatever the order of their fields.

    Raises:
      ValueError: the value is not JSON (NaN and infinities are not).
    """
    return _digest(value).hexdigest()


def open_store(folder: str | Path, settings: dict, *, sync_seconds: float = 5.0) -> "Store":
    """Open the store in a folder, or make it there.

    Args:
      folder: of the store; it and its parents are made where missing.
      settings: JSON object of all that every record of the store has in common.
      sync_seconds: the most that may pass before a record is forced to the disk.

    Raises:
      ValueError: the settings are not JSON or not those of the store, or a line is damaged.
    """
    if not sync_seconds >= 0:
        raise ValueError(f"sync_seconds must be >= 0; got {sync_seconds}")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    settings = json.loads(_canonical(settings, "settings"))
    _agree(folder, settings)
    return Store(folder, settings, sync_seconds)


class Store:
    """Records by key; made by `open_store`. Safe to share between threads, not between processes.

    What other processes append is seen when the store is opened, before the first `append`, and by
    `count` and `rows`.
    """

    def __init__(self, folder: Path, settings: dict, sync_seconds: float):
        self.folder = folder
        self.settings = settings
        self._prefix = _digest(settings)
        self._sync_seconds, self._synced = sync_seconds, time.monotonic()
        self._process, self._lock = os.getpid(), threading.RLock()
        self._where: dict[bytes, tuple[int, int]] = {}  # key -> shard number, offset of its line
        self._read: dict[int, _Read] = {}
        self._files: dict[int, BinaryIO] = {}
        self._shard: int | None = None  # number of the shard that this process writes
        self._writer = -1  # its file descriptor
        self._refresh()

    def key(self, **parts: Any) -> str:
        """Key of the record that the store's settings and these JSON values determine."""
        digest = self._prefix.copy()
        digest.update(b"\0" + _canonical(parts, "parts of a key"))
        return digest.hexdigest()

    def __contains__(self, key: str) -> bool:
        return bytes.fromhex(key) in self._where

    def __getitem__(self, key: str) -> dict:
        if key not in self:
            raise KeyError(key)
        shard, offset = self._where[bytes.fromhex(key)]
        self._check_process()
        with self._lock:
            if shard not in self._files:
                self._files[shard] = _path(self.folder, shard).open("rb")
            self._files[shard].seek(offset)
            return json.loads(self._files[shard].readline())["row"]

    def append(self, key: str, row: dict) -> None:
        """Add a record, unless its key is known to be stored: another process may be faster.

        Raises:
          ValueError: the key is none of `Store.key`, or the row is not JSON.
          OSError: the disk is full, say; the store is as it was.
        """
        if len(key) != 2 * KEY_BYTES:
            raise ValueError(f"{self.folder}: {key} is not a key of a store")
        checked = b'"key":"%s","row":%s}' % (key.encode(), _canonical(row, f"row of {key}"))
        line = _HEAD % zlib.crc32(checked) + checked + b"\n"
        self._check_process()
        with self._lock:
            if self._shard is None:
                self._take_shard()
            if key in self:
                return
            self._write(line)
            end, lines = self._read[self._shard]
            self._where[bytes.fromhex(key)] = (self._shard, end)
            self._read[self._shard] = _Read(end + len(line), lines + 1)
            if time.monotonic() - self._synced >= self._sync_seconds:
                self.sync()

    def count(self) -> int:
        """Number of records, those of other processes included."""
        self._refresh()
        return len(self._where)

    def rows(self) -> Iterator[tuple[str, dict]]:
        """Keys and rows in the order of the keys, which no kill and no second writer changes.

        Where two processes stored the same key at once, the row is that of the lower shard.
        """
        self._refresh()
        for key in sorted(self._where):
            yield key.hex(), self[key.hex()]

    def sync(self) -> None:
        """Force what this process has appended to the disk."""
        if self._shard is not None:
            os.fsync(self._writer)
        self._synced = time.monotonic()

    def close(self) -> None:
        """Force everything to the disk and let another process have the shard."""
        self.sync()
        for file in self._files.values():
            file.close()
        self._files = {}
        if self._shard is not None:
            os.close(self._writer)
            self._shard, self._writer = None, -1

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _take_shard(self) -> None:
        """Lock the first shard that no living process writes, and cut off a line without end."""
        for number in itertools.count():
            path = _path(self.folder, number)
            file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                os.close(file)
        try:
            self._refresh()
            os.ftruncate(file, self._read[number].end)
            _sync_folder(self.folder)
        except BaseException:
            os.close(file)
            raise
        self._shard, self._writer = number, file

    def _check_process(self) -> None:
        if os.getpid() != self._process:  # a fork shares the files' positions and the lock
            raise RuntimeError(f"{self.folder}: a child process must open the store for itself")

    def _write(self, line: bytes) -> None:
        rest = line
        try:
            while rest:
                rest = rest[os.write(self._writer, rest) :]
        except BaseException:  # a full disk, or an interrupt between two parts of a line
            os.ftruncate(self._writer, self._read[self._shard].end)
            raise

    def _refresh(self) -> None:
        """Index the whole lines that were appended since the last look."""
        with self._lock:
            for path in sorted(self.folder.glob("[0-9][0-9][0-9][0-9]*.jsonl")):
                self._index(path, int(path.stem))

    def _index(self, path: Path, number: int) -> None:
        end, lines = self._read.get(number, _Read())
        with path.open("rb") as file:
            file.seek(end)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                lines += 1
                checked = line[_CHECKED:-1]
                if line[:_CHECKED] != _HEAD % zlib.crc32(checked):
                    remedy = "delete it, and its record is computed again"
                    raise ValueError(f"{path}:{lines} is damaged: {remedy}")
                key = bytes.fromhex(line[_KEY].decode())
                self._where[key] = min((number, end), self._where.get(key, (number, end)))
                end += len(line)
        self._read[number] = _Read(end, lines)


def _path(folder: Path, shard: int) -> Path:
    return folder / f"{shard:04d}.jsonl"


def _canonical(value: Any, what: str) -> bytes:
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise ValueError(f"{what}: not JSON: {error}") from None


def _digest(value: Any) -> "hashlib.blake2b":
    return hashlib.blake2b(_canonical(value, "content"), digest_size=KEY_BYTES)


def _agree(folder: Path, settings: dict) -> None:
    """Check the settings against the stored ones; the first process stores them."""
    path = folder / "settings.json"
    if not path.exists():
        with (folder / "settings.lock").open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists():  # another process was faster
                partial = path.with_suffix(".partial")
                with partial.open("wb") as file:
                    file.write(json.dumps(settings, indent=1, sort_keys=True).encode() + b"\n")
                    os.fsync(file.fileno())
                partial.replace(path)
                _sync_folder(folder)
    try:
        stored = json.loads(path.read_bytes())
    except ValueError:
        raise ValueError(f"{path} is damaged: not JSON") from None
    if stored != settings:
        raise ValueError(f"{path} {_difference(stored, settings)}; use another folder")


def _difference(stored: Any, given: Any, name: str = "") -> str:
    """The first field in which settings differ, in words."""
    if isinstance(stored, dict) and isinstance(given, dict):
        for field in sorted({*stored, *given}):
            there, here = stored.get(field, "nothing"), given.get(field, "nothing")
            if there != here:
                return _difference(there, here, f"{name}.{field}" if name else field)
    there, here = (json.dumps(value)[:80] for value in (stored, given))
    return f"is of another job: {name or 'all'} is {there} there and {here} here"


def _sync_folder(folder: Path) -> None:
    file = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
