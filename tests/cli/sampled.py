"""A tiny random model that writes whole words, and made-up problems of both benchmarks."""

import gzip
import json
from pathlib import Path

from jlab.hub import save_hf
from jlab.nn import llama
from tests.hub.models import random_params

EOS = "<|endoftext|>"
# Each is one token, so that a random model often solves the problems below.
WORDS = (
    EOS,
    "?",  # whatever a prompt says
    " #### 0",
    " #### 2",
    " #### 4",
    "\n\nQuestion:",
    " so",
    "    return x + 1\n",
    "    return x - 1\n",
    "\ndef",
)
SUMS = [
    {"question": f"What is {i} + {i}?", "answer": f"{i} + {i} = {2 * i}\n#### {2 * i}"}
    for i in range(3)
]
TASKS = [
    {
        "task_id": f"Made/{name}",
        "prompt": f'def {name}(x):\n    """The {name} of x."""\n',
        "entry_point": name,
        "test": f"def check(f):\n    assert f(1) == {value}\n",
    }
    for name, value in (("successor", 2), ("predecessor", 0))
]


def word_model(folder: Path) -> Path:
    """A Hugging Face folder with weights and tokenizer."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    folder.mkdir()
    config = llama(d_model=16, layers=1, heads=2, d_ff=24, vocab_size=len(WORDS))
    save_hf(folder, config, random_params(config))
    vocabulary = {word: number for number, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([EOS])
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def write_rows(path: Path, rows: list[dict]) -> Path:
    """JSON lines, compressed where the name says so."""
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


def rows_of(folder: Path) -> list[dict]:
    """Rows of a store, in the order of their keys."""
    lines = [line for path in folder.glob("*.jsonl") for line in path.read_text().splitlines()]
    records = sorted(map(json.loads, lines), key=lambda record: record["key"])
    return [record["row"] for record in records]
