"""Tokenizers: bytes, a byte-level BPE trained on given texts, or any `tokenizer.json`.

A document is always read as text: a special token spelled out in it is encoded as its characters,
so no document can end itself. A prompt may name special tokens: chat templates write them out.
"""

import functools
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from jaxtyping import Int

from jlab.data.pack import token_dtype

if TYPE_CHECKING:
    import tokenizers

EOS = "<|endoftext|>"
# Names that published tokenizers give the token that ends a document, commonest first.
_EOS_NAMES = (EOS, "</s>", "<eos>", "<|end_of_text|>", "<|eos|>", "[EOS]")


@dataclass(frozen=True)
class Tokenizer:
    """Text to ids and back; equal when the fingerprints are.

    Example:
      >>> tokenizer = byte_tokenizer()
      >>> tokenizer.encode_batch(["hi"])[0].tolist(), tokenizer.decode([104, 105, tokenizer.eos_id])
      ([104, 105], 'hi')
    """

    kind: Literal["bytes", "bpe", "file"]
    vocab_size: int  # ids are below it
    eos_id: int  # ends a document; never produced from text
    fingerprint: str  # SHA-256 of all that decides the ids
    _model: "tokenizers.Tokenizer | None" = None

    def encode_batch(self, texts: Sequence[str]) -> list[Int[np.ndarray, "tokens"]]:
        """The ids of each text, without any special token."""
        dtype = token_dtype(self.vocab_size)
        if self._model is None:
            return [np.frombuffer(text.encode(), np.uint8).astype(dtype) for text in texts]
        encoded = self._model.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(one.ids, dtype) for one in encoded]

    def encode_prompts(
        self, texts: Sequence[str], *, framed: bool = True
    ) -> list[Int[np.ndarray, "tokens"]]:
        """The ids of each prompt; special tokens that the text spells out are read as such.

        Args:
          texts: the prompts.
          framed: add the special tokens that the tokenizer puts around a text, usually one that
            begins it; a prompt from a chat template has them already.
        """
        if self._model is None:
            return self.encode_batch(texts)
        encoded = self._prompt_model.encode_batch_fast(list(texts), add_special_tokens=framed)
        return [np.array(one.ids, token_dtype(self.vocab_size)) for one in encoded]

    def save(self, path: Path) -> None:
        """Write it as a `tokenizer.json`, for a model's folder; `file_tokenizer` reads it."""
        model = _byte_model(self.vocab_size) if self._model is None else self._model
        path.write_text(model.to_str())

    @functools.cached_property
    def _prompt_model(self) -> "tokenizers.Tokenizer":
        """A copy that reads special tokens: the switch is state, which threads would share."""
        model = type(self._model).from_str(self._model.to_str())
        model.encode_special_tokens = False
        return model

    def decode(self, ids: Iterable[int]) -> str:
        """The text of the ids; special tokens are left out, broken UTF-8 becomes U+FFFD."""
        ids = [int(i) for i in ids]
        if self._model is None:
            return bytes(i for i in ids if i != self.eos_id).decode(errors="replace")
        return self._model.decode(ids, skip_special_tokens=True)


def byte_tokenizer() -> Tokenizer:
    """UTF-8 bytes as ids 0..255, and 256 for the end of a document."""
    return Tokenizer("bytes", 257, 256, hashlib.sha256(b"jlab bytes 257").hexdigest())


def _byte_model(vocab_size: int) -> "tokenizers.Tokenizer":
    """The same ids from a BPE without merges: its alphabet names the bytes by printable letters."""
    from tokenizers import Tokenizer as Model
    from tokenizers import decoders, models, pre_tokenizers

    letters = {number: letter for letter, number in _letters().items()}
    vocabulary = {letters[number]: number for number in range(256)} | {EOS: vocab_size - 1}
    model = Model(models.BPE(vocabulary, []))
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    model.decoder = decoders.ByteLevel()
    model.add_special_tokens([EOS])
    return model


def _letters() -> dict[str, int]:
    """The byte that each letter of the byte-level alphabet stands for.

    Printable Latin-1 letters are their own bytes; the others follow from U+0100 on, in order.
    Source: GPT-2 (Radford et al. 2019), released code.
    """
    own = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in own]
    return {chr(byte): byte for byte in own} | {chr(256 + i): b for i, b in enumerate(rest)}


def file_tokenizer(
    path: Path, eos_token: str | None = None, kind: Literal["bpe", "file"] = "file"
) -> Tokenizer:
    """Read a `tokenizer.json`.

    Args:
      path: the file.
      eos_token: its token that ends a document; None: the first of the common names that it has.
      kind: what to call it; "bpe" is one that `train_bpe` made.

    Raises:
      FileNotFoundError, ValueError: no such file, not a tokenizer, or no such token.
    """
    import tokenizers

    if not path.is_file():
        raise FileNotFoundError(
            f'tokenizer must be "bytes", "bpe" or the path of a tokenizer.json; got {str(path)!r},'
            " which is not a file"
        )
    data = path.read_bytes()
    try:
        model = tokenizers.Tokenizer.from_str(data.decode())
    except Exception as error:  # the library raises bare Exception
        reason = str(error).splitlines()[0]
        raise ValueError(f"tokenizer: {path} is not a tokenizer.json: {reason}") from error
    model.no_padding()
    model.no_truncation()
    model.encode_special_tokens = True
    vocabulary = model.get_vocab(with_added_tokens=True)
    names = _EOS_NAMES if eos_token is None else (eos_token,)
    eos = next((name for name in names if name in vocabulary), None)
    if eos is None:
        raise ValueError(
            f"eos_token: {path} has none of {', '.join(map(repr, names))};"
            " name its token that ends a document"
        )
    fingerprint = hashlib.sha256(data + b"\0" + eos.encode()).hexdigest()
    return Tokenizer(kind, max(vocabulary.values()) + 1, vocabulary[eos], fingerprint, model)


def folder_tokenizer(folder: Path, eos_token: str | None = None) -> Tokenizer:
    """Read a released model's `tokenizer.json`, with the end token that its folder names.

    Args:
      folder: of the model.
      eos_token: the token that ends a document; None: as in `tokenizer_config.json`, where there
        is one, else as in `file_tokenizer`.

    Raises:
      FileNotFoundError, ValueError: no such file, not a tokenizer, or no such token.
    """
    settings = folder / "tokenizer_config.json"
    if eos_token is None and settings.is_file():
        try:
            eos_token = json.loads(settings.read_bytes()).get("eos_token")
        except (AttributeError, ValueError) as error:
            raise ValueError(f"tokenizer: {settings} is not a JSON object: {error}") from error
        if isinstance(eos_token, dict):  # a token with its settings
            eos_token = eos_token.get("content")
    return file_tokenizer(folder / "tokenizer.json", eos_token)


def train_bpe(texts: Iterable[str], vocab_size: int, path: Path) -> None:
    """Train a byte-level BPE and write it as a `tokenizer.json`; small texts give a smaller one."""
    from tokenizers import Tokenizer as Model
    from tokenizers import decoders, models, pre_tokenizers, trainers

    model = Model(models.BPE())
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    model.train_from_iterator(texts, trainer)
    path.write_text(model.to_str())
