"""Groups: from a DataConfig to packed train, validation and test tokens, through the cache."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from jlab.data.cache import cached, key
from jlab.data.corpus import (
    SPLITS,
    Counts,
    first_bytes,
    read_corpus,
    used,
    write_corpus,
    write_tokens,
)
from jlab.data.pack import Packed, token_dtype
from jlab.data.sources import Source, parse_group
from jlab.data.stdlib import stdlib_sources
from jlab.data.tokenizer import Tokenizer, byte_tokenizer, file_tokenizer, train_bpe

Progress = Callable[[str, int], None]  # what is being done, and the bytes of text done so far

_FORMAT = 1  # part of every cache key: raise it when the files change their meaning
_BPE_BYTES = 1_000_000  # training text per group that the BPE sees; more changes few merges
_MORE = {  # what gives a split that is too small a window
    "train": "add text or lower length",
    "validation": "add documents, raise validation_fraction or lower length",
    "test": "add documents, raise test_fraction or lower length",
}


@dataclass(frozen=True)
class DataConfig:
    """What to train on, and how it becomes tokens."""

    groups: tuple[str, ...] = ("stdlib",)
    """"stdlib" (four groups found with Python), or NAME=PATH (file, folder, glob), or
    NAME=hf://DATASET?config=C&split=S&revision=R."""
    text_field: str = "text"
    """Field of a JSON line, Parquet row or dataset row that holds the text."""
    tokenizer: str = "bpe"
    """"bytes", "bpe" (trained on the groups), or the path of a tokenizer.json."""
    eos_token: str | None = None
    """Token of a tokenizer.json that ends a document; None: found by its common names."""
    vocab_size: int = 4096
    """Tokens of the trained BPE."""
    length: int = 256
    """Tokens per window."""
    document_mask: bool = True
    """Keep the documents in a window apart: attention, positions, loss."""
    validation_fraction: float = 0.05
    """Share of the documents for validation."""
    test_fraction: float = 0.05
    """Share of the documents for the test."""
    max_bytes_per_group: int | None = 4_000_000
    """Bytes of text used per group, by a choice that no order of documents changes; None: all."""
    on_error: Literal["raise", "skip"] = "raise"
    """What to do with a record that cannot be read; "skip" counts it."""
    cache_dir: str | None = None
    """Folder for tokens and tokenizers; None: the user's cache folder."""

    def __post_init__(self):
        if not self.groups:
            raise ValueError('groups must name at least one group, or "stdlib"; got none')
        for field, least in (("vocab_size", 257), ("length", 1), ("max_bytes_per_group", 1)):
            value = getattr(self, field)
            if value is not None and value < least:
                raise ValueError(f"{field} must be at least {least}; got {value}")
        for field in ("validation_fraction", "test_fraction"):
            if not 0 < getattr(self, field) < 1:
                raise ValueError(f"{field} must be between 0 and 1; got {getattr(self, field)}")
        if self.validation_fraction + self.test_fraction >= 1:
            raise ValueError(
                "validation_fraction + test_fraction must be under 1, to leave some for training;"
                f" got {self.validation_fraction} + {self.test_fraction}"
            )
        if self.on_error not in ("raise", "skip"):
            raise ValueError(f'on_error must be "raise" or "skip"; got {self.on_error!r}')


class Groups(NamedTuple):
    """Tokenised groups; the tuples are in the order of `names`."""

    names: tuple[str, ...]
    tokenizer: Tokenizer
    train: tuple[Packed, ...]
    validation: tuple[Packed, ...]
    test: tuple[Packed, ...]
    counts: dict[str, dict[str, Counts]]  # by group name, then split
    fingerprints: dict[str, str]  # SHA-256 of each group's documents, and of "tokenizer"
    skipped: dict[str, int]  # records that could not be read, by group name
    notes: tuple[str, ...]  # what the user should know: default groups that are missing

    def bytes_per_token(self, split: str) -> Float[np.ndarray, "groups"]:
        """UTF-8 bytes per token; bits per byte = loss in nats / ln 2 / this."""
        sizes = [self.counts[name][split] for name in self.names]
        return np.array([size.bytes / size.tokens for size in sizes])

    def remarks(self) -> list[str]:
        """What the user should hear before training: missing groups, and records left out."""
        left_out = [f"{name}: {n} bad records skipped" for name, n in self.skipped.items() if n]
        return [*self.notes, *left_out]


def load_groups(
    config: DataConfig, progress: Progress | None = None, tokenizer: Tokenizer | None = None
) -> Groups:
    """Read, split, tokenise and pack the groups, or find all that in the cache.

    Args:
      config: what to load.
      progress: hears what is being done, only where the cache does not have it.
      tokenizer: of a model that is there already; None: the one that the config names.

    Raises:
      ValueError, FileNotFoundError: one line that names the group, file and line, or the field.
    """
    progress = progress or (lambda doing, done: None)
    sources, notes = _sources(config)
    cache = _cache_dir(config)
    corpora = {n: _corpus(n, source, config, cache, progress) for n, source in sources.items()}
    tokenizer = tokenizer or _tokenizer(config, corpora, cache, progress)
    packed, counts = {}, {}
    for name, corpus in corpora.items():
        packed[name], counts[name] = _tokens(name, corpus, tokenizer, config, cache, progress)
    contents = {name: corpus.facts["content"] for name, corpus in corpora.items()}
    return Groups(
        names=tuple(corpora),
        tokenizer=tokenizer,
        **{split: tuple(packed[name][split] for name in corpora) for split in SPLITS},
        counts=counts,
        fingerprints={**contents, "tokenizer": tokenizer.fingerprint},
        skipped={name: corpus.facts["skipped"] for name, corpus in corpora.items()},
        notes=tuple(notes),
    )


class _Corpus(NamedTuple):
    folder: Path
    facts: dict


def _sources(config: DataConfig) -> tuple[dict[str, Source], list[str]]:
    entries, notes = [], []
    for entry in config.groups:
        if entry == "stdlib":
            found, notes = stdlib_sources()
            entries.extend(found.items())
        else:
            entries.append(parse_group(entry, config.text_field))
    names = [name for name, _ in entries]
    twice = sorted({name for name in names if names.count(name) > 1} | ({"tokenizer"} & set(names)))
    if twice:
        raise ValueError(f"groups: the name {twice[0]!r} is taken; each group needs its own")
    if not entries:
        raise ValueError(f"groups: none of the default groups is here: {'; '.join(notes)}")
    return dict(entries), notes


def _cache_dir(config: DataConfig) -> Path:
    if config.cache_dir is not None:
        return Path(config.cache_dir).expanduser() / "data"
    import platformdirs

    return Path(platformdirs.user_cache_dir("jlab")) / "data"


def _corpus(
    name: str, source: Source, config: DataConfig, cache: Path, progress: Progress
) -> _Corpus:
    skipped = 0

    def bad(problem: str) -> None:
        nonlocal skipped
        if config.on_error == "raise":
            raise ValueError(f'group {name!r}: {problem} (on_error "skip" leaves such records out)')
        skipped += 1

    def build(folder: Path) -> dict:
        texts = used(source.documents(bad), config.max_bytes_per_group, source.streamed)
        tell = counter(progress, f"reading {name}")
        facts = write_corpus(texts, folder, config.validation_fraction, config.test_fraction, tell)
        return {**facts, "skipped": skipped}

    choice = (config.max_bytes_per_group, config.validation_fraction, config.test_fraction)
    folder = cache / f"text-{key(_FORMAT, source.fingerprint(), choice, config.on_error)}"
    corpus = _Corpus(folder, cached(folder, build))
    if not any(documents for documents, _ in corpus.facts["counts"].values()):
        raise ValueError(f"group {name!r} is empty: its source has no text")
    return corpus


def _tokenizer(
    config: DataConfig, corpora: dict[str, _Corpus], cache: Path, progress: Progress
) -> Tokenizer:
    if config.tokenizer == "bytes":
        return byte_tokenizer()
    if config.tokenizer != "bpe":
        return file_tokenizer(Path(config.tokenizer).expanduser(), config.eos_token)

    def build(folder: Path) -> dict:
        progress("training the tokenizer", 0)
        texts = (
            text
            for corpus in corpora.values()
            for text in first_bytes(read_corpus(corpus.folder, "train"), _BPE_BYTES)
        )
        train_bpe(texts, config.vocab_size, folder / "tokenizer.json")
        return {}

    contents = [corpus.facts["content"] for corpus in corpora.values()]
    folder = cache / f"bpe-{key(_FORMAT, contents, config.vocab_size, _BPE_BYTES)}"
    cached(folder, build)
    return file_tokenizer(folder / "tokenizer.json", kind="bpe")


def _tokens(
    name: str,
    corpus: _Corpus,
    tokenizer: Tokenizer,
    config: DataConfig,
    cache: Path,
    progress: Progress,
) -> tuple[dict[str, Packed], dict[str, Counts]]:
    folder = cache / f"tokens-{key(_FORMAT, corpus.folder.name, tokenizer.fingerprint)}"
    tell = counter(progress, f"tokenising {name}")
    tokens = cached(folder, lambda into: write_tokens(corpus.folder, into, tokenizer, tell))
    counts = {split: Counts(*corpus.facts["counts"][split], tokens[split]) for split in SPLITS}
    for split, size in counts.items():
        if size.tokens <= config.length:
            what = f"group {name!r}: its {split} split"
            says = too_small(what, size.tokens, size.documents, config.length)
            raise ValueError(f"{says}: {_MORE[split]}")
    dtype = token_dtype(tokenizer.vocab_size)
    packed = {
        split: Packed(
            _mapped(folder / f"{split}.tokens", dtype),
            _mapped(folder / f"{split}.starts", np.dtype(np.int64)),
            config.length,
        )
        for split in SPLITS
    }
    return packed, counts


def _mapped(path: Path, dtype: np.dtype) -> np.ndarray:
    # A plain view of the map: numpy's memmap class makes every read slower.
    return np.asarray(np.memmap(path, dtype, mode="r"))


def too_small(what: str, tokens: int, documents: int, length: int) -> str:
    """That so many tokens do not fill one window, for a message."""
    return (
        f"{what} has {tokens} tokens of {documents} documents, and one window of length {length}"
        f" needs {length + 1}"
    )


def counter(progress: Progress, doing: str) -> Callable[[int], None]:
    """Adds up the bytes done for `progress`."""
    done = 0

    def tell(more: int) -> None:
        nonlocal done
        done += more
        progress(doing, done)

    return tell
