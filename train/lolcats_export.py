"""Linearized models as folders that `jlab.hub.load_hf` reads, so that they can be shared."""

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
from jaxtyping import PyTree

from jlab.data import Tokenizer
from jlab.hub import local_folder, save_hf, write_config
from jlab.nn import TransformerConfig, lora_merge
from jlab.training.pretrained import is_run
from train.lolcats_config import Config


def check_export(config: Config, model: TransformerConfig) -> None:
    """Refuse a model that no released family can express, before it is trained.

    Raises:
      ValueError: with what it has.
    """
    if not config.export:
        return
    try:
        write_config(model)
    except ValueError as error:
        raise ValueError(f"export: {error}; or export nothing, with --export") from error


def export(
    config: Config,
    tokenizer: Tokenizer,
    model: TransformerConfig,
    variables: Mapping[str, PyTree],
    folder: Path,
) -> None:
    """Save a model with its adapters merged, unless it is there or is on several hosts.

    Tokenizer, chat template and special tokens are those of a released base.
    """
    if folder.exists() or jax.process_count() > 1:
        return
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # what a stopped save has left
    params = variables["params"]
    if "lora" in variables:
        params = lora_merge(model, params, variables["lora"])
    released = config.base and not is_run(Path(config.base))
    fields: dict[str, Any] = {} if released else {"eos_token_id": tokenizer.eos_id}
    base = local_folder(config.base, config.revision) if released else None
    save_hf(partial, replace(model, lora=None), jax.device_get(params), base=base, fields=fields)
    if not released:
        tokenizer.save(partial / "tokenizer.json")
    partial.rename(folder)
