"""Instruction data: prompts with answers as training windows in which only the answers are learned.

A row is an instruction, perhaps with an input, and an output. The first two become a prompt of a
fixed form; the output, closed by the end token, is what a model learns to say to it. Samples lie
end to end in one stream. Each is a document, so that `document_mask=True` keeps them apart and
`document_mask=False` lets attention cross from one to the next, as the release of LoLCATs does.

The form is Stanford Alpaca's, with the line end that LoLCATs' release puts after `### Response:`.
Sources: Taori et al., "Stanford Alpaca", 2023; Zhang et al., "LoLCATs", arXiv 2410.10254.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from jlab.data.corpus import Counts
from jlab.data.formats import text_problem
from jlab.data.groups import Groups, Progress, counter, too_small
from jlab.data.pack import Packed, token_dtype
from jlab.data.records import read_records
from jlab.data.table_rows import Row
from jlab.data.tokenizer import Tokenizer

NAME = "instructions"  # of the one group
_CHUNK = 4096  # samples tokenised at once

_INSTRUCTION = (
    "Below is an instruction that describes a task. Write a response that appropriately completes"
    " the request.\n\n### Instruction:\n{instruction}\n\n### Response:\n"
)
_INSTRUCTION_AND_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further"
    " context. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"
)


@dataclass(frozen=True)
class InstructionConfig:
    """Where instructions and their answers are."""

    path: str = ""
    """A file (.jsonl, .csv, also .gz or .zst; .parquet; .json, lines or one list of objects), or
    the name of a hub dataset such as yahma/alpaca-cleaned."""
    subset: str | None = None
    """Subset of a hub dataset."""
    split: str = "train"
    """Split of a hub dataset."""
    instruction: str = "instruction"
    """Field of a row that holds the instruction."""
    input: str = "input"
    """Field that holds what the instruction is about; a row may lack it or leave it empty."""
    output: str = "output"
    """Field that holds the answer."""
    held_out: int = 200
    """So many rows from the first are kept from training: by turns for validation and test."""

    def __post_init__(self):
        if self.held_out < 2:
            raise ValueError(
                f"held_out must be at least 2, a row each for validation and test; got"
                f" {self.held_out}"
            )


def load_instructions(
    config: InstructionConfig, tokenizer: Tokenizer, length: int, progress: Progress | None = None
) -> Groups:
    """Read, split, tokenise and pack the rows, as one group; `Packed.learned` marks the answers.

    A prompt has the special tokens that the tokenizer puts around a text, usually one that begins
    it; an answer ends with the end token, which is learned too. Of the held-out rows, counted from
    0, the even ones are for validation and the odd ones for the test; the release has all of them
    for both. A window that no answer reaches stays, with a mask of zeros: the release drops such.

    The counts are of what is learned, with which a loss over answers becomes bits per byte.

    Args:
      config: where the rows are.
      tokenizer: of the model that is to learn.
      length: tokens per window.
      progress: hears what is being done.

    Raises:
      ValueError: one line that names the field, or the file and row.
    """
    if length < 1:
        raise ValueError(f"length must be at least 1; got {length}")
    progress = progress or (lambda doing, done: None)
    progress(f"reading {NAME}", 0)
    samples, held = _samples(config), config.held_out
    splits = {"train": samples[held:], "validation": samples[:held:2], "test": samples[1:held:2]}
    tell = counter(progress, f"tokenising {NAME}")
    packed = {name: _pack(its, tokenizer, length, tell) for name, its in splits.items()}
    for split, its in packed.items():
        if not len(its):
            what = f"group {NAME!r}: its {split} split"
            more = "add rows" if split == "train" else "raise held_out"
            says = too_small(what, len(its.tokens), len(its.starts), length)
            raise ValueError(f"{says}: {more} or lower length")
    facts = [config.instruction, config.input, config.output, held, samples]
    return Groups(
        names=(NAME,),
        tokenizer=tokenizer,
        **{split: (its,) for split, its in packed.items()},
        counts={NAME: {split: _counts(its, packed[split]) for split, its in splits.items()}},
        fingerprints={
            NAME: hashlib.sha256(json.dumps(facts).encode()).hexdigest(),
            "tokenizer": tokenizer.fingerprint,
        },
        skipped={},
        notes=(),
    )


def alpaca_prompt(instruction: str, context: str = "") -> str:
    r"""The prompt for an instruction, with the input that it is about where there is one.

    >>> alpaca_prompt("Add them.", "1 and 2")[-62:]
    '### Instruction:\nAdd them.\n\n### Input:\n1 and 2\n\n### Response:\n'
    """
    form = _INSTRUCTION_AND_INPUT if context else _INSTRUCTION
    return form.format(instruction=instruction, input=context)


class _Sample(NamedTuple):
    prompt: str
    answer: str


def _samples(config: InstructionConfig) -> list[_Sample]:
    needed = (config.instruction, config.output)
    rows = read_records("path", config.path, needed, subset=config.subset, split=config.split)
    if len(rows) <= config.held_out:
        raise ValueError(
            f"held_out must be below the {len(rows)} rows of {config.path}, to leave some for"
            f" training; got {config.held_out}"
        )
    return [
        _Sample(
            alpaca_prompt(row.cells[config.instruction], _context(row, config.input)),
            row.cells[config.output],
        )
        for row in rows
    ]


def _context(row: Row, field: str) -> str:
    if row.cells.get(field) is None:
        return ""
    problem = text_problem(row.cells, field)
    if problem:
        raise ValueError(f"path: {row.where}: {problem}")
    return row.cells[field]


def _pack(
    samples: Sequence[_Sample], tokenizer: Tokenizer, length: int, tell: Callable[[int], None]
) -> Packed:
    end = np.array([tokenizer.eos_id], token_dtype(tokenizer.vocab_size))
    pieces = []
    for first in range(0, len(samples), _CHUNK):
        prompts, answers = zip(*samples[first : first + _CHUNK], strict=True)
        encoded = tokenizer.encode_prompts(prompts), tokenizer.encode_batch(answers)
        for prompt, answer in zip(*encoded, strict=True):
            pieces += [prompt, answer, end]
        tell(sum(len(text.encode()) for text in (*prompts, *answers)))
    sizes = np.array([len(piece) for piece in pieces])
    ends = sizes.cumsum()[2::3]
    starts = np.append(0, ends[:-1])
    learned = np.repeat(np.tile([False, True, True], len(samples)), sizes)
    return Packed(np.concatenate(pieces), starts, length, learned)


def _counts(samples: Sequence[_Sample], packed: Packed) -> Counts:
    size = sum(len(sample.answer.encode()) for sample in samples)
    return Counts(len(samples), size, int(packed.learned.sum()))
