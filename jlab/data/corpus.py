"""A group's corpus: the documents that are used, divided by what they say.

The hash of a document's text decides two things independently: whether it is among those used when
a limit is set, and its split. Neither depends on where the document stands, so adding, removing or
reordering others moves it nowhere, and copies of one text never lie on both sides of a split.
"""

import hashlib
import heapq
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jlab.data.pack import token_dtype
from jlab.data.tokenizer import Tokenizer

SPLITS = ("train", "validation", "test")
_SALT = b"jlab document 1\0"
_POOL = 4  # a streamed dataset is read up to this many times the limit, then chosen from
_CHUNK = 1 << 20  # bytes of text tokenised at once

Tell = Callable[[int], None]  # hears of each piece of work: its bytes of text


class Counts(NamedTuple):
    """The size of one group's split."""

    documents: int
    bytes: int  # of UTF-8 text
    tokens: int  # with one end-of-document token per document


def document_hash(text: str) -> bytes:
    """32 bytes that stand for a text: the first 8 decide its split, the others its order."""
    return hashlib.sha256(_SALT + text.encode()).digest()


def split_of(document: bytes, validation_fraction: float, test_fraction: float) -> str:
    """The split of a document, from its hash."""
    place = int.from_bytes(document[:8], "big") / 2**64
    if place < test_fraction:
        return "test"
    return "validation" if place < test_fraction + validation_fraction else "train"


def select(texts: Iterable[str], max_bytes: int) -> list[str]:
    """Choose documents in the order of their hashes until `max_bytes` would be passed.

    The answer is the same for every order of `texts`. A document that alone is larger than
    `max_bytes` is left out, unless there is no other: it would push out all that come after it.
    Memory holds little more than what is chosen.
    """
    chosen: list[tuple[int, str]] = []  # a heap by negative hash: the last in order comes off first
    size, ceiling = 0, 1 << 192
    large: tuple[int, str] | None = None  # the first in order of those that are too large
    for text in texts:
        order = int.from_bytes(document_hash(text)[8:], "big")
        if len(text.encode()) > max_bytes:
            large = min(large or (order, text), (order, text))
            continue
        if order >= ceiling:
            continue
        heapq.heappush(chosen, (-order, text))
        size += len(text.encode())
        while size > max_bytes and len(chosen) > 1:
            negative, dropped = heapq.heappop(chosen)
            ceiling = -negative  # whatever comes later in the order stays out too
            size -= len(dropped.encode())
    if not chosen and large is not None:
        return [large[1]]
    return [text for _, text in sorted(chosen, reverse=True)]


def first_bytes(texts: Iterable[str], limit: int) -> Iterator[str]:
    """Cut a stream of texts after the one with which it reaches `limit` bytes."""
    seen = 0
    for text in texts:
        yield text
        seen += len(text.encode())
        if seen >= limit:
            return


def used(texts: Iterable[str], max_bytes: int | None, streamed: bool) -> Iterable[str]:
    """The documents that count: all, or a choice of `max_bytes`."""
    if max_bytes is None:
        return texts
    return select(first_bytes(texts, _POOL * max_bytes) if streamed else texts, max_bytes)


def write_corpus(
    texts: Iterable[str],
    folder: Path,
    validation_fraction: float,
    test_fraction: float,
    tell: Tell,
) -> dict:
    """Write each split's texts to `folder`; return their counts and a hash of them all."""
    content = hashlib.sha256()
    counts = {split: [0, 0] for split in SPLITS}
    with ExitStack() as stack:
        files = {s: stack.enter_context((folder / f"{s}.text").open("wb")) for s in SPLITS}
        sizes = {s: stack.enter_context((folder / f"{s}.sizes").open("wb")) for s in SPLITS}
        for text in texts:
            document = document_hash(text)
            split = split_of(document, validation_fraction, test_fraction)
            data = text.encode()
            files[split].write(data)
            sizes[split].write(np.int64(len(data)).tobytes())
            counts[split][0] += 1
            counts[split][1] += len(data)
            content.update(split.encode() + document)
            tell(len(data))
    return {"counts": counts, "content": content.hexdigest()}


def read_corpus(folder: Path, split: str) -> Iterator[str]:
    """Yield the texts of a split in the order in which they were written."""
    with (folder / f"{split}.text").open("rb") as file:
        for size in np.fromfile(folder / f"{split}.sizes", np.int64):
            yield file.read(int(size)).decode()


def write_tokens(corpus: Path, folder: Path, tokenizer: Tokenizer, tell: Tell) -> dict:
    """Tokenise each split of a corpus into `folder`; return the number of tokens of each."""
    return {
        split: _write_split(read_corpus(corpus, split), folder / split, tokenizer, tell)
        for split in SPLITS
    }


def _write_split(texts: Iterator[str], path: Path, tokenizer: Tokenizer, tell: Tell) -> int:
    end = np.array([tokenizer.eos_id], token_dtype(tokenizer.vocab_size)).tobytes()
    written = 0
    with (
        path.with_suffix(".tokens").open("wb") as tokens,
        path.with_suffix(".starts").open("wb") as starts,
    ):
        for chunk in _chunks(texts):
            for ids in tokenizer.encode_batch(chunk):
                starts.write(np.int64(written).tobytes())
                tokens.write(ids.tobytes() + end)
                written += len(ids) + 1
            tell(sum(len(text.encode()) for text in chunk))
    return written


def _chunks(texts: Iterator[str]) -> Iterator[list[str]]:
    while chunk := list(first_bytes(texts, _CHUNK)):
        yield chunk
