"""Which models `python -m evals linearized` compares, on what text: of a run, or by name."""

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from jlab.cli import UsageError, read_json
from jlab.data import DataConfig, InstructionConfig
from jlab.hub import local_folder, read_config
from jlab.linearize import SwapConfig
from jlab.nn import TransformerConfig
from jlab.training.config import from_dict
from jlab.training.language_config import LanguageModelConfig
from jlab.training.pretrained import check_model

if TYPE_CHECKING:
    from evals.linearized import Config

SAVED = ("transferred", "tuned", "alone")  # in KIND/models of a run's seed
_READ = ("base", "revision", "data", "instructions", "recall", "swap")  # of a run's config


class Entry(NamedTuple):
    """A linearized model to evaluate."""

    label: str
    kind: str  # of attention, in a run; else the label
    stage: str  # swapped, transferred, tuned, alone; "" for one that was named
    source: str  # folder or hub id; "": the base with its attention swapped


class Plan(NamedTuple):
    """What is to be read, checked as far as that goes without reading a model."""

    title: str
    base: str
    revision: str | None
    data: DataConfig
    instructions: InstructionConfig
    repeats: bool
    swap: SwapConfig | None  # of a run
    entries: list[Entry]


def read_plan(config: "Config") -> Plan:
    """Find the models, and refuse what is wrong with them before any is loaded.

    Raises:
      UsageError, FileNotFoundError, ValueError: one line.
    """
    plan = _of_run(config) if config.run else _of_names(config)
    length = plan.data.length
    if plan.repeats and (length % 2 or length < 4):
        raise ValueError(
            f"data.length must be even and at least 4 for text said twice (--no-repeats goes"
            f" without); got {length}"
        )
    check_model(plan.base, plan.revision)
    base = _shape(plan.base, plan.revision)
    if not _softmax(base):
        raise ValueError(f"base must have softmax attention throughout; {plan.base} is linearized")
    for entry in plan.entries:
        if entry.source:
            _check(entry.source, base)
    return plan


def _of_run(config: "Config") -> Plan:
    """The models of one seed of a run of `train lolcats`."""
    if config.base or config.models or config.revision:
        raise UsageError("base, revision and models must be left out with a run, which has its own")
    if config.data != DataConfig() or config.instructions != InstructionConfig():
        raise UsageError("data and instructions must be left out with a run, which has its own")
    root, seed, saved = _folders(Path(config.run))
    missing = [name for name in _READ if name not in saved]
    if missing:
        raise UsageError(f"{root / 'config.json'} has no config.{missing[0]}")
    base = saved["base"] or str(seed / "base")
    if not saved["base"] and not (seed / "base" / "model.json").is_file():
        raise UsageError(
            f"run: {seed} has no base yet: go on with it, python -m train lolcats --resume {root}"
        )
    swap = from_dict(SwapConfig, saved["swap"], "swap")
    entries = [
        Entry(f"{kind} {stage}", kind, stage, source)
        for kind in swap.attention
        for stage, source in _stages(seed / kind / "models").items()
    ]
    return Plan(
        title=str(config.run),
        base=base,
        revision=saved["revision"],
        data=from_dict(DataConfig, saved["data"], "data"),
        instructions=from_dict(InstructionConfig, saved["instructions"], "instructions"),
        repeats=config.repeats and saved["recall"] > 0,
        swap=swap,
        entries=entries,
    )


def _folders(folder: Path) -> tuple[Path, Path, dict]:
    """The run folder, that of the seed, and the run's config."""
    root = folder
    if folder.name.startswith("seed-") and not (folder / "config.json").is_file():
        root = folder.parent
    if not folder.is_dir() or not (root / "config.json").is_file():
        raise FileNotFoundError(f"run: {folder} is not a run folder: it has no config.json")
    record = read_json(root / "config.json")
    if record.get("preset") != "lolcats":
        what = record.get("preset") or record.get("evaluation")
        raise UsageError(f"run: {folder} must be a run of train lolcats; it is one of {what!r}")
    seeds = record["seeds"]
    seed = root / f"seed-{seeds[0]}" if root == folder and len(seeds) > 1 else folder
    return root, seed, record["config"]


def _stages(models: Path) -> dict[str, str]:
    """The swapped model, and those that are saved: a save ends with `config.json`."""
    saved = {stage: models / stage for stage in SAVED}
    there = {s: str(path) for s, path in saved.items() if (path / "config.json").is_file()}
    return {"swapped": "", **there}


def _of_names(config: "Config") -> Plan:
    if not config.base or not config.models:
        raise UsageError(
            "linearized needs a run of train lolcats: python -m evals linearized RUN; or --base"
            " MODEL and --models MODEL ..."
        )
    if len(set(config.models)) < len(config.models):
        raise UsageError(f"models must be different ones; got {' '.join(config.models)}")
    return Plan(
        title=config.base,
        base=config.base,
        revision=config.revision,
        data=config.data,
        instructions=config.instructions,
        repeats=config.repeats,
        swap=None,
        entries=[Entry(source, source, "", source) for source in config.models],
    )


def _check(source: str, base: TransformerConfig) -> None:
    """Refuse a model that is not linearized, or of another vocabulary than its base."""
    check_model(source, None)
    model = _shape(source, None)
    if _softmax(model):
        raise ValueError(f"models: {source} is not linearized: all its layers are softmax")
    if model.vocab_size != base.vocab_size:
        raise ValueError(
            f"models: {source} must have the base's vocabulary of {base.vocab_size} tokens; it has"
            f" {model.vocab_size}"
        )


def _shape(source: str, revision: str | None) -> TransformerConfig:
    """The config of a model, without its weights."""
    run = Path(source).expanduser() / "model.json"
    if run.is_file():
        return from_dict(LanguageModelConfig, read_json(run)["config"]).model
    return read_config(read_json(local_folder(source, revision) / "config.json"))


def _softmax(model: TransformerConfig) -> bool:
    return all(layer.attention == "softmax" for layer in model.pattern)
