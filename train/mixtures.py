"""The mixing method of a run, chosen by config."""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import PyTree

from jlab.data import Groups
from jlab.mixing import (
    AioliConfig,
    Mixer,
    aioli,
    doge,
    doremi,
    odm,
    schedule,
    skillit,
    static,
    stratified,
)
from jlab.mixing.mixer import check_group_count
from jlab.training.config import differences, to_dict
from jlab.training.language_model import (
    LanguageModelConfig,
    restore_language_model,
    with_vocabulary,
)
from jlab.training.metrics import read_metrics

# Which method reads each field that only one of them needs.
_READ_BY = {
    "proportions": "static",
    "schedule": "schedule",
    "graph": "skillit",
    "reference": "doremi",
}
_RATED = ("skillit", "doremi", "doge")


@dataclass(frozen=True)
class MixtureConfig:
    """What decides the proportions."""

    method: Literal[
        "stratified", "static", "schedule", "skillit", "odm", "aioli", "doremi", "doge"
    ] = "stratified"
    """Equal shares; fixed `proportions`; a `schedule` file; learned while training (skillit, odm,
    aioli); or a proxy run that reweights the loss, to learn proportions for another run (doremi,
    doge)."""
    proportions: tuple[float, ...] | None = None
    """Shares of the groups, in their order (static)."""
    schedule: str | None = None
    """JSON with lists `steps` and `proportions`, or a run folder to replay (schedule)."""
    graph: str | None = None
    """JSON with a list of rows, one per trained group (skillit); none: the identity."""
    reference: str | None = None
    """Folder of a trained model to compare losses with (doremi)."""
    rate: float | None = None
    """Step size (skillit, doremi) or temperature (doge); none: the method's default."""
    update_steps: int | None = None
    """Steps between updates (skillit, odm); none: the method's default."""
    aioli: AioliConfig = field(default_factory=AioliConfig)

    def __post_init__(self):
        for name, method in _READ_BY.items():
            if getattr(self, name) is not None and self.method != method:
                raise ValueError(
                    f"mixture.{name} is read by method {method} only; the method is {self.method}"
                )
        if self.method != "aioli" and self.aioli != AioliConfig():
            raise ValueError(
                f"mixture.aioli is read by method aioli only; the method is {self.method}"
            )
        if self.rate is not None and self.method not in _RATED:
            raise ValueError(
                f"mixture.rate is read by methods {', '.join(_RATED)}; the method is {self.method}"
            )
        if self.rate is not None and not 0 < self.rate < math.inf:
            raise ValueError(f"mixture.rate must be positive and finite; got {self.rate}")
        if self.update_steps is not None and self.method not in ("skillit", "odm"):
            raise ValueError(
                f"mixture.update_steps is read by methods skillit, odm; the method is {self.method}"
            )


def make_mixer(config: MixtureConfig) -> Mixer:
    """The mixing method that a config names.

    Raises:
      ValueError: a setting that the method needs is missing or wrong.
      FileNotFoundError: a file or run folder that a field names does not exist.
    """
    rate = () if config.rate is None else (config.rate,)
    steps = {} if config.update_steps is None else {"update_steps": config.update_steps}
    match config.method:
        case "stratified":
            return stratified()
        case "static":
            return static(_needed(config, "proportions"))
        case "schedule":
            return _schedule(Path(_needed(config, "schedule")))
        case "skillit":
            graph = None if config.graph is None else _read_graph(Path(config.graph))
            return skillit(graph, *rate, **steps)
        case "odm":
            return odm(**steps)
        case "aioli":
            return aioli(config.aioli)
        case "doremi":
            _reference_folder(config)
            return doremi(*rate)
        case "doge":
            return doge(*rate)


def load_reference(config: MixtureConfig) -> PyTree | None:
    """Parameters of the model that the method compares with, if it needs one."""
    if config.method != "doremi":
        return None
    return restore_language_model(_reference_folder(config)).params


def check_reference(config: MixtureConfig, model: LanguageModelConfig, groups: Groups) -> None:
    """Refuse a reference model of another shape, or that reads other tokens.

    Raises:
      ValueError: with what differs.
    """
    if config.method != "doremi":
        return
    folder = _reference_folder(config)
    record = json.loads((folder / "model.json").read_text())
    shape = to_dict(with_vocabulary(model, groups).model)
    tokens = {"tokenizer": groups.fingerprints["tokenizer"]}
    there = {"tokenizer": record["fingerprints"].get("tokenizer")}
    other = [*differences(record["config"]["model"], shape), *differences(there, tokens)]
    if other:
        raise ValueError(
            f"mixture.reference: {folder} has another model (there and here): {'; '.join(other)}"
        )


def check_objective(config: AioliConfig, groups: Groups) -> None:
    """Refuse an objective that has not one weight per evaluated group.

    Raises:
      ValueError: with both numbers.
    """
    if config.objective is not None:
        check_group_count("aioli.objective", len(config.objective), len(groups.names))


def _needed(config: MixtureConfig, name: str):
    value = getattr(config, name)
    if value is None:
        raise ValueError(f"mixture.{name} must be given with method {config.method}")
    return value


def _reference_folder(config: MixtureConfig) -> Path:
    folder = Path(_needed(config, "reference"))
    if not (folder / "model.json").is_file():
        raise FileNotFoundError(
            f"mixture.reference: {folder} is not the folder of a trained model: no model.json"
        )
    return folder


def _schedule(path: Path) -> Mixer:
    try:
        return schedule(**_read_schedule(path))
    except (ValueError, TypeError) as error:
        raise ValueError(f"mixture.schedule: {path}: {error}") from error


def _read_schedule(path: Path) -> dict[str, list]:
    source = path / "metrics.jsonl" if path.is_dir() else path
    if not source.is_file():
        raise FileNotFoundError(f"mixture.schedule: {source} does not exist")
    if not path.is_dir():
        saved = json.loads(path.read_text())
        names = ("steps", "proportions")
        if not isinstance(saved, dict) or not all(isinstance(saved.get(n), list) for n in names):
            raise ValueError(f"must be a JSON object with the lists {' and '.join(names)}")
        return {name: saved[name] for name in names}
    lines = read_metrics(path)
    plans = [row for row in lines if "plan" in row]
    if any("mixing/round" in row and "loss" in row for row in lines):
        raise ValueError("that run reweighted its loss in every step; a schedule only samples")
    return {
        "steps": [row["step"] for row in plans],
        "proportions": [row["plan"]["proportions"] for row in plans],
    }


def _read_graph(path: Path) -> np.ndarray:
    if not path.is_file():
        raise FileNotFoundError(f"mixture.graph: {path} does not exist")
    try:
        return np.array(json.loads(path.read_text()), np.float64)
    except (ValueError, TypeError) as error:
        raise ValueError(f"mixture.graph: {path} must be a JSON list of rows: {error}") from error
