"""Small groups in temporary folders; the user's cache is never touched."""

import json

import pytest

from jlab.data import DataConfig


@pytest.fixture
def jsonl(tmp_path):
    """Writer of a JSON lines file: a name and texts in, its path out."""

    def write(name, texts):
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        return path

    return write


@pytest.fixture
def small(tmp_path, jsonl):
    """A config of two groups of 300 short documents, in bytes; fields as keywords."""

    def config(**fields):
        entries = tuple(
            f"{name}={jsonl(name, (f'{name} document {n}' for n in range(300)))}"
            for name in ("plain", "other")
        )
        defaults = {"tokenizer": "bytes", "length": 32, "cache_dir": str(tmp_path / "cache")}
        return DataConfig(**{"groups": entries, **defaults, **fields})

    return config
