"""Per-window losses of a trained model, kept as they come, and their perplexity with intervals."""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np

from jlab.data import make_batch
from jlab.training.language import make_row_sums, whole
from jlab.training.language_model import Trained, restore_language_model
from jlab.training.manifest import newest_whole
from jlab.training.mesh import put_batch


def measure(folder: Path, split: str, limit: int, samples: int, seed: int) -> list[dict]:
    """Perplexity and bits per byte of every group, with 95 % bootstrap intervals over windows.

    Args:
      folder: of a trained model (`model.json`, `checkpoints/`).
      split: `train`, `validation` or `test`.
      limit: windows per group at most, spread evenly over the split.
      samples: bootstrap samples.
      seed: of the bootstrap.

    Returns:
      One dict per group: group, perplexity, low, high, bits_per_byte, windows.
    """
    trained = restore_language_model(folder)
    store = Path(folder) / "evals" / "perplexity.jsonl"
    windows = _windows(trained, split, limit)
    keys = _keys(folder, trained, split, windows)
    known = _read(store)
    missing = [i for i, key in enumerate(keys) if key not in known]
    store.parent.mkdir(exist_ok=True)
    with store.open("a") as file:
        for i, nats, tokens in _losses(trained, split, windows, missing):
            known[keys[i]] = (nats, tokens)
            line = {"key": keys[i], "split": split, "nats": nats, "tokens": tokens}
            file.write(json.dumps(line) + "\n")
            file.flush()
    sums = np.array([known[key] for key in keys])
    bytes_per_token = trained.groups.bytes_per_token(split)
    random = np.random.default_rng(seed)
    return [
        {"group": name, **_score(sums[windows[:, 0] == g], bytes_per_token[g], samples, random)}
        for g, name in enumerate(trained.groups.names)
    ]


def _score(sums: np.ndarray, bytes_per_token: float, samples: int, random) -> dict:
    sums = sums[sums[:, 1] > 0]  # a window can be without a target, where documents are masked
    means = sums[:, 0] / sums[:, 1]  # nats per token of each window
    drawn = means[random.integers(len(means), size=(samples, len(means)))].mean(1)
    low, high = np.exp(np.quantile(drawn, [0.025, 0.975]))
    nats = sums[:, 0].sum() / sums[:, 1].sum()
    return {
        "perplexity": float(np.exp(means.mean())),
        "low": float(low),
        "high": float(high),
        "bits_per_byte": float(nats / np.log(2) / bytes_per_token),
        "windows": len(means),
    }


def _windows(trained: Trained, split: str, limit: int) -> np.ndarray:
    """Rows (group, window number) to evaluate."""
    rows = []
    for g, packed in enumerate(getattr(trained.groups, split)):
        count = min(limit, len(packed))
        ids = np.arange(count) * len(packed) // count
        rows.append(np.stack([np.full(count, g), ids], axis=1))
    return np.concatenate(rows)


def _keys(folder: Path, trained: Trained, split: str, windows: np.ndarray) -> list[str]:
    """One key per window, from the content that decides its loss: checkpoint, text, split."""
    _, manifest = newest_whole(Path(folder) / "checkpoints")
    fixed = [manifest.read_text(), split, json.dumps(trained.groups.fingerprints)]
    prefix = hashlib.blake2b("\0".join(fixed).encode(), digest_size=16).hexdigest()
    names = trained.groups.names
    return [f"{prefix}/{names[g]}/{i}" for g, i in windows]


def _read(store: Path) -> dict[str, tuple[float, float]]:
    """What is stored already; a last line cut off by a kill is taken away."""
    if not store.exists():
        return {}
    written = store.read_bytes()
    whole = written[: written.rfind(b"\n") + 1]
    if len(whole) < len(written):
        os.truncate(store, len(whole))
    rows = map(json.loads, whole.splitlines())
    return {row["key"]: (row["nats"], row["tokens"]) for row in rows}


def _losses(
    trained: Trained, split: str, windows: np.ndarray, missing: list[int]
) -> Iterator[tuple[int, float, float]]:
    packed, size = getattr(trained.groups, split), trained.config.batch_size
    row_sums = make_row_sums(trained.config.model, trained.mesh)
    for start in range(0, len(missing), size):
        chosen = missing[start : start + size]
        # The last batch repeats a row, so that every batch has one shape and nothing recompiles.
        rows = windows[np.resize(chosen, size)]
        batch = make_batch(packed, rows[:, 0], rows[:, 1], trained.config.data.document_mask)
        nats, tokens = jax.device_get(
            row_sums(whole(trained.params), put_batch(batch, trained.mesh))
        )
        for i, row in zip(chosen, zip(nats.tolist(), tokens.tolist(), strict=True), strict=False):
            yield i, *row
