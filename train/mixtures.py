"""The mixing method of a run, chosen by config."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from jlab.data import Groups
from jlab.mixing import AioliConfig, Mixer, aioli, schedule, static, stratified
from jlab.mixing.mixer import check_group_count
from jlab.training.metrics import read_metrics


@dataclass(frozen=True)
class MixtureConfig:
    """What decides the proportions."""

    method: Literal["stratified", "static", "schedule", "aioli"] = "stratified"
    """Equal shares; fixed `proportions`; a `schedule` file; or learned while training."""
    proportions: tuple[float, ...] | None = None
    """Shares of the groups, in their order (static)."""
    schedule: str | None = None
    """JSON with lists `steps` and `proportions`, or a run folder to replay (schedule)."""
    aioli: AioliConfig = field(default_factory=AioliConfig)


def make_mixer(config: MixtureConfig) -> Mixer:
    """The mixing method that a config names.

    Raises:
      ValueError: a setting that the method needs is missing or wrong.
      FileNotFoundError: the schedule file, or the numbers of the run folder, do not exist.
    """
    if config.method == "stratified":
        return stratified()
    if config.method == "aioli":
        return aioli(**vars(config.aioli))
    needed = "proportions" if config.method == "static" else "schedule"
    value = getattr(config, needed)
    if value is None:
        raise ValueError(f"mixture.{needed} must be given with method {config.method}")
    return static(value) if config.method == "static" else _schedule(Path(value))


def _schedule(path: Path) -> Mixer:
    try:
        return schedule(**_read_schedule(path))
    except ValueError as error:
        raise ValueError(f"mixture.schedule: {path}: {error}") from error


def check_objective(config: AioliConfig, groups: Groups) -> None:
    """Refuse an objective that has not one weight per evaluated group.

    Raises:
      ValueError: with both numbers.
    """
    if config.objective is not None:
        check_group_count("aioli.objective", len(config.objective), len(groups.names))


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
    plans = [row for row in read_metrics(path) if "plan" in row]
    return {
        "steps": [row["step"] for row in plans],
        "proportions": [row["plan"]["proportions"] for row in plans],
    }
