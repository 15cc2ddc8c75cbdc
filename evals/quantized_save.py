"""The models of `python -m evals quantized` as folders that every command takes."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax

from jlab.hub import local_folder, save_hf, save_packed
from jlab.precision import QuantizedModel
from jlab.training.pretrained import Model, is_run

if TYPE_CHECKING:
    from evals.quantized import Config


def save(config: "Config", model: Model, made: QuantizedModel, folder: Path) -> None:
    """Write the model with its tokenizer, whole or not at all.

    Raises:
      FileExistsError: there is something at the folder.
    """
    if folder.exists():
        raise FileExistsError(f"save_to: {folder} is there already; name another folder")
    if jax.process_count() > 1:
        raise ValueError("save must be nothing on several hosts")
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # what a stopped save has left
    released = not is_run(Path(config.model).expanduser())
    settings: dict[str, Any] = {"fields": {"eos_token_id": model.tokenizer.eos_id}}
    if released:
        settings = {"base": local_folder(config.model, config.revision)}
    params = jax.device_get(made.params)
    if config.save == "packed":
        save_packed(partial, model.config, params, made.kernels, **settings)
    else:
        save_hf(partial, model.config, params, **settings)
    if not released:
        model.tokenizer.save(partial / "tokenizer.json")
    partial.rename(folder)
