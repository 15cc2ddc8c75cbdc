"""A tiny base of random weights, models linearized from it, text, and a run folder of them."""

import json
from pathlib import Path

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from jlab.data import DataConfig, InstructionConfig
from jlab.hub import load_hf, save_hf
from jlab.linearize import linearize
from jlab.nn import FeatureMapConfig, llama
from jlab.training.config import to_dict
from tests.hub.models import random_params

WORDS = ("<|endoftext|>", "?", *"abcdefghij")
MAPS = FeatureMapConfig(features=3)
WINDOW, LENGTH = 2, 16
KINDS = {"hybrid_terrace": WINDOW, "linear": None}
GROUPS = ("one", "two")
CHANGED = {"transferred": ("linearized",), "tuned": ("linearized", "q_proj")}


def write_base(folder: Path, words: tuple[str, ...] = WORDS) -> Path:
    """A Hugging Face folder whose tokenizer knows one-letter words."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    config = llama(d_model=16, layers=2, heads=2, d_ff=24, vocab_size=len(words))
    save_hf(folder, config, random_params(config))
    vocabulary = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(["<|endoftext|>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def write_models(folder: Path, base: Path) -> None:
    """KIND/models/{transferred,tuned}: maps, and then projections too, that moved."""
    config, params = load_hf(base)
    for number, (kind, window) in enumerate(KINDS.items()):
        swapped, weights = linearize(config, params, kind, window=window, feature_map=MAPS)
        for stage, names in CHANGED.items():
            path = folder / kind / "models" / stage
            save_hf(path, swapped, moved(weights, names, number), base=base)


def moved(params: dict, names: tuple[str, ...], seed: int) -> dict:
    """Parameters with noise on those whose path has one of the names."""
    flat = flatten_dict(params)
    keys = jax.random.split(jax.random.key(seed), len(flat))
    return unflatten_dict(
        {
            path: leaf + 0.3 * jax.random.normal(key, leaf.shape) * bool(set(path) & set(names))
            for key, (path, leaf) in zip(keys, flat.items(), strict=True)
        }
    )


def write_text(folder: Path) -> tuple[str, ...]:
    """Documents of letters; what `data.groups` takes."""
    rng = np.random.default_rng(0)
    for group in GROUPS:
        rows = [" ".join(rng.choice(WORDS[2:], 12)) for _ in range(200)]
        text = "".join(json.dumps({"text": f"{i} {row}"}) + "\n" for i, row in enumerate(rows))
        (folder / f"{group}.jsonl").write_text(text)
    return tuple(f"{group}={folder.name}/{group}.jsonl" for group in GROUPS)


def write_run(folder: Path, **fields: object) -> Path:
    """What `train lolcats --base BASE` leaves, as far as an evaluation reads it.

    Paths in it are relative: a command runs in the folder above.
    """
    folder.mkdir()
    write_models(folder, write_base(folder / "the-base"))
    swap = {"window": WINDOW, "feature_map": to_dict(MAPS), "affine": False, "softmax_layers": []}
    config = {
        "base": f"{folder.name}/the-base",
        "revision": None,
        "data": to_dict(DataConfig(write_text(folder), length=LENGTH, test_fraction=0.2)),
        "instructions": to_dict(InstructionConfig()),
        "recall": 0.5,
        "swap": {"attention": list(KINDS), **swap},
    }
    record = {"preset": "lolcats", "seeds": [0], "config": config | fields}
    (folder / "config.json").write_text(json.dumps(record))
    return folder
