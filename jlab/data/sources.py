"""Sources: where a group's documents come from, and what identifies their content.

A group is written `NAME=WHERE`, where WHERE is a file, a folder, a glob, or a Hugging Face dataset
`hf://owner/dataset?config=C&split=S&revision=R` (all three optional; the split is `train` unless
named). Files are known by the hash of their bytes, streamed datasets by their address alone: give a
revision where the dataset may change.
"""

import glob
import hashlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol
from urllib.parse import parse_qsl, urlsplit

from jlab.data.formats import Bad, read_file, reason, text_problem

HUB_PREFIX = "hf://"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


class Source(Protocol):
    """Documents in a fixed order, and a fingerprint that changes whenever they may have changed."""

    streamed: ClassVar[bool]  # remote: reading all of it may never end

    def fingerprint(self) -> str:
        """SHA-256 of what identifies the documents."""

    def documents(self, bad: Bad) -> Iterator[str]:
        """Yield the texts; `bad` hears of each record that cannot be read."""


@dataclass(frozen=True)
class FileSource:
    """Documents of local files, in the order of `paths`."""

    paths: tuple[Path, ...]
    text_field: str
    streamed: ClassVar[bool] = False

    def fingerprint(self) -> str:
        """SHA-256 over each file's kind and bytes; names and folders do not count."""
        digest = hashlib.sha256(f"files {self.text_field}".encode())
        for path in self.paths:
            with path.open("rb") as file:
                content = hashlib.file_digest(file, "sha256").digest()
            digest.update("".join(path.suffixes[-2:]).encode() + b"\0" + content)
        return digest.hexdigest()

    def documents(self, bad: Bad) -> Iterator[str]:
        """Yield the documents of every file in turn."""
        for path in self.paths:
            yield from read_file(path, self.text_field, bad)


@dataclass(frozen=True)
class HubSource:
    """Documents of a Hugging Face dataset, streamed."""

    dataset: str
    text_field: str
    config: str | None = None
    split: str = "train"
    revision: str | None = None
    streamed: ClassVar[bool] = True

    def fingerprint(self) -> str:
        """SHA-256 of the dataset's address, since its content is known only once it is read."""
        address = [self.dataset, self.config, self.split, self.revision, self.text_field]
        return hashlib.sha256(json.dumps(["hub", *address]).encode()).hexdigest()

    def documents(self, bad: Bad) -> Iterator[str]:
        """Yield the text field of every row, in the dataset's order."""
        where = f"{HUB_PREFIX}{self.dataset} (split {self.split!r})"
        for row, record in enumerate(self._rows(where)):
            if row == 0 and self.text_field not in record:
                has = ", ".join(map(repr, record))
                raise ValueError(f"{where}: no field {self.text_field!r}; the columns are {has}")
            problem = text_problem(record, self.text_field)
            if problem:
                bad(f"{where}: row {row + 1}: {problem}")
            elif record[self.text_field]:
                yield record[self.text_field]

    def _rows(self, where: str) -> Iterator[dict]:
        import datasets

        try:
            yield from datasets.load_dataset(
                self.dataset,
                self.config,
                split=self.split,
                revision=self.revision,
                streaming=True,
            )
        except Exception as error:  # network, address, split, format: the library raises many kinds
            raise ValueError(f"{where}: cannot be streamed: {reason(error)}") from error


def parse_group(
    entry: str, text_field: str, built_in: str = '"stdlib"'
) -> tuple[str, FileSource | HubSource]:
    """Read one `NAME=WHERE` entry of `groups` into its name and source.

    Args:
      entry: as the user wrote it.
      text_field: field of a record that holds the text.
      built_in: the entries without a "=" that there are, for the message.

    Raises:
      ValueError: the entry has another form, or its `hf://` address has unknown parts.
      FileNotFoundError: no file is there.
    """
    name, equals, where = entry.partition("=")
    if not equals or not where or not _NAME.fullmatch(name):
        raise ValueError(
            f"groups: each entry must be {built_in} or NAME=PATH or NAME=hf://DATASET, with NAME of"
            f" letters, digits, '_', '.', '-'; got {entry!r}"
        )
    if where.startswith(HUB_PREFIX):
        return name, _hub_source(name, where, text_field)
    return name, FileSource(_files(name, where), text_field)


def _hub_source(name: str, where: str, text_field: str) -> HubSource:
    address = urlsplit(where)
    options = dict(parse_qsl(address.query, keep_blank_values=True))
    unknown = sorted(set(options) - {"config", "split", "revision"})
    dataset = (address.netloc + address.path).strip("/")
    if unknown or not dataset or not all(options.values()):
        raise ValueError(
            f"group {name!r}: {where!r} must be hf://DATASET?config=C&split=S&revision=R,"
            " each option with a value or left out"
        )
    return HubSource(dataset, text_field, **options)


def _files(name: str, where: str) -> tuple[Path, ...]:
    path = Path(where).expanduser()
    if path.is_dir():
        found = sorted(_visible_files(path))
    elif path.exists():
        found = [path]
    else:
        found = sorted(p for p in map(Path, glob.glob(str(path), recursive=True)) if p.is_file())
    if not found:
        what = "the folder has no files" if path.is_dir() else "no such file, folder or glob match"
        raise FileNotFoundError(f"group {name!r}: {where}: {what}")
    return tuple(found)


def _visible_files(folder: Path) -> Iterator[Path]:
    for here, folders, files in os.walk(folder):
        folders[:] = (name for name in folders if not name.startswith("."))
        yield from (Path(here, name) for name in files if not name.startswith("."))
