"""LoRA adapters of the `peft` library (0.9 and later) as ours.

A folder holds `adapter_config.json` and, per adapted map, `lora_A.weight[rank, inputs]` and
`lora_B.weight[outputs, rank]` under `base_model.model.` and the released map's name. Source:
`peft`, src/peft/tuners/lora. What it can do beyond plain LoRA is refused by name.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from jlab.hub import tensors
from jlab.hub.adapters import adapted_maps, adapter_halves, read_halves, with_targets
from jlab.hub.fields import Fields, read_json
from jlab.hub.files import file_tensors, refuse_pickles
from jlab.nn import LoRASpec, TransformerConfig

SETTINGS, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# Fields that change what an adapter computes, with the values that do not; null is always one.
_PLAIN = MappingProxyType(
    {
        "peft_type": ("LORA",),
        "bias": ("none",),
        "use_dora": (False,),
        "lora_bias": (False,),
        "use_qalora": (False,),
        "modules_to_save": ([],),
        "layer_replication": ([],),
        "alora_invocation_tokens": ([],),
        "arrow_config": (),
        # The others (pissa, olora, corda, loftq ...) change the weights that the adapter is for.
        "init_lora_weights": (True, False, "gaussian", "eva", "orthogonal"),
    }
)


def load_adapter(
    directory: str | Path, config: TransformerConfig
) -> tuple[TransformerConfig, dict[str, Any]]:
    """The config with its `LoRASpec`, and the adapters in float32.

    `use_rslora` divides alpha by the root of the rank: read as the alpha that does the same.
    The one adapter of GPT-NeoX's query, key and value becomes three that begin with equal `a`.

    Args:
      directory: folder with `adapter_config.json` and `adapter_model.safetensors`.
      config: of the model that the adapters belong to.

    Raises:
      FileNotFoundError, ValueError: one line that names the file and the field or tensor.
    """
    folder = Path(directory).expanduser()
    settings, maps = read_json(folder / SETTINGS), adapted_maps(config)
    if not (folder / WEIGHTS).is_file():
        refuse_pickles(folder, f"{WEIGHTS} is")
    stored = file_tensors(folder / WEIGHTS)
    try:
        halves = adapter_halves(stored, maps)
        named = {name for name, _ in halves.values()}
        _check_targets(settings.get("target_modules"), settings, named, maps)
    except ValueError as error:
        raise ValueError(f"{folder / WEIGHTS}: {error}") from error
    try:
        spec, blocks = _read_spec(settings, maps)
        config = with_targets(config, spec, named, maps)
    except ValueError as error:
        raise ValueError(f"{folder / SETTINGS}: {error}") from error
    return config, read_halves(stored, halves, config, blocks=blocks)


def _check_targets(
    targets: object, settings: Mapping[str, Any], named: set[str], maps: Mapping[str, Any]
) -> None:
    """A list of targets says which maps must be there; otherwise the tensors say it."""
    narrowed = settings.get("layers_to_transform") is not None or settings.get("exclude_modules")
    if not isinstance(targets, list) or narrowed:
        return
    for target in targets:
        fits = [name for name in maps if f".{name}".endswith(f".{target}")]
        if not fits:
            raise ValueError(f"the model has no linear map {target!r}, which target_modules names")
        lacking = [name for name in fits if name not in named]
        if lacking:
            raise ValueError(f"no tensors of {lacking[0]}, which target_modules names")


def _read_spec(
    settings: Mapping[str, Any], maps: Mapping[str, tensors.Released]
) -> tuple[LoRASpec, bool]:
    """Rank, alpha and dropout; and whether fused maps have three times the rank, in blocks."""
    for name, plain in _PLAIN.items():
        if settings.get(name) is not None and settings[name] not in plain:
            raise ValueError(f"{name} is not supported; got {settings[name]!r}")
    fields = Fields(settings)
    rank, alpha = fields.size("r"), fields.read("lora_alpha", float)
    patterns = {name: settings.get(name) or {} for name in ("rank_pattern", "alpha_pattern")}
    fused = {name.rpartition(".")[2] for name, place in maps.items() if len(place.places) > 1}
    ours = {"rank_pattern": 3 * rank, "alpha_pattern": 3 * alpha}  # as `save_adapter` writes them
    rslora = fields.read("use_rslora", bool, False)
    alike = all(patterns[name] == dict.fromkeys(fused, ours[name]) for name in ours)
    blocks = bool(fused) and alike and not rslora
    for name, pattern in patterns.items():
        if pattern and not blocks:
            raise ValueError(f"{name} is not supported; got {pattern!r}")
    if rslora:
        alpha *= math.sqrt(rank)
    return LoRASpec(rank, alpha, fields.read("lora_dropout", float, 0.0)), blocks
