"""Our LoRA adapters as a folder that `peft` and `load_adapter` read."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict

from jlab.hub import tensors
from jlab.hub.adapters import PREFIX, adapted_maps, adapter_shapes, short_names
from jlab.hub.files import write_file
from jlab.hub.peft import SETTINGS, WEIGHTS
from jlab.hub.save import check_leaves
from jlab.nn import TransformerConfig

_PARTIAL = ".partial"  # until all of it is written


def save_adapter(
    directory: str | Path,
    config: TransformerConfig,
    lora: Mapping[str, Any],
    *,
    base: str | None = None,
) -> None:
    """Write `adapter_model.safetensors` and `adapter_config.json`, bit for bit in their own types.

    GPT-NeoX has one map for query, key and value. Three adapters of rank r are one of rank 3 r
    there (`rank_pattern`), unless they share their first half, as those that `peft` made do.

    Args:
      directory: made if missing; must not hold an adapter.
      config: of the model, with the spec of the adapters in `config.lora`.
      lora: as `lora_init` and `load_adapter` give them.
      base: hub id or folder of the model that they belong to, for `peft` to find it.

    Raises:
      FileExistsError, ValueError: one line that names the file, adapter or field.
    """
    directory, flat, spec = Path(directory), flatten_dict(dict(lora)), config.lora
    check_leaves("lora", flat, adapter_shapes(config))
    every = adapted_maps(config)
    maps = {name: place for name, place in every.items() if _is_adapted(name, place, flat)}
    fused = {name: place for name, place in maps.items() if len(place.places) > 1}
    blocks = not all(_share_a(flat, place) for place in fused.values())
    words = {name.rpartition(".")[2] for name in fused} if blocks else ()
    arrays = {}
    for name, place in maps.items():
        a, b = _joined(flat, place, blocks)
        arrays[f"{PREFIX}{name}.lora_A.weight"] = a
        arrays[f"{PREFIX}{name}.lora_B.weight"] = b
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": spec.rank,
        "lora_alpha": _whole(spec.alpha),
        "lora_dropout": spec.dropout,
        "target_modules": short_names(set(maps), list(every)),
        "rank_pattern": dict.fromkeys(words, 3 * spec.rank),
        "alpha_pattern": {word: _whole(3 * spec.alpha) for word in words},
        "bias": "none",
        "inference_mode": True,
    }
    _write(directory, arrays, settings)


def _is_adapted(name: str, released: tensors.Released, flat: Mapping[tensors.Keys, Any]) -> bool:
    ours = [(*path[:-1], "a") in flat for path, _ in released.places]
    if any(ours) and not all(ours):
        raise ValueError(
            "lora.targets must take all of q_proj, k_proj and v_proj or none of them where one"
            f" released tensor holds them: {name}"
        )
    return all(ours)


def _share_a(flat: Mapping[tensors.Keys, Any], released: tensors.Released) -> bool:
    first, *others = _halves(flat, released, "a")
    return all(np.array_equal(first, other) for other in others)


def _halves(
    flat: Mapping[tensors.Keys, Any], released: tensors.Released, half: str
) -> list[np.ndarray]:
    """One half of each of our adapters of a released map."""
    leaves = [(flat[*path[:-1], half], row) for path, row in released.places]
    return [np.asarray(leaf if row is None else leaf[row]) for leaf, row in leaves]


def _joined(
    flat: Mapping[tensors.Keys, Any], released: tensors.Released, blocks: bool
) -> tuple[np.ndarray, np.ndarray]:
    """`lora_A[rank, inputs]` and `lora_B[outputs, rank]`."""
    a, b = _halves(flat, released, "a"), _halves(flat, released, "b")
    if blocks and len(a) > 1:
        # Side by side, and each part of the outputs reads its own: [a0 a1 a2] @ diag(b0, b1, b2).
        rank = b[0].shape[0]
        rows = ((i * rank, (len(b) - 1 - i) * rank) for i in range(len(b)))
        a = [np.concatenate(a, axis=1)]
        b = [np.pad(part, (own, (0, 0))) for part, own in zip(b, rows, strict=True)]
    shape = (released.shape[0], b[0].shape[0])
    return a[0].T, tensors.join(b, released._replace(shape=shape))


def _whole(number: float) -> float | int:
    """As an integer where it is one: `peft` writes alpha so."""
    return int(number) if number == int(number) else number


def _write(directory: Path, arrays: Mapping[str, np.ndarray], settings: Mapping[str, Any]) -> None:
    """The settings last, so that nothing takes a stopped save for an adapter."""
    directory.mkdir(parents=True, exist_ok=True)
    for name in (SETTINGS, WEIGHTS):
        if (directory / name).exists():
            raise FileExistsError(f"{directory} holds an adapter already: {name}")
    layout = {name: (array.dtype, array.shape) for name, array in arrays.items()}
    write_file(directory / (WEIGHTS + _PARTIAL), arrays.values(), layout)
    (directory / (WEIGHTS + _PARTIAL)).replace(directory / WEIGHTS)
    (directory / SETTINGS).write_text(json.dumps(settings, indent=2) + "\n")
