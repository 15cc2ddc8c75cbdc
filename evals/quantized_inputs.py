"""Model, text and settings of `python -m evals quantized`, checked and read."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from evals.linearized_windows import Windows, digests
from jlab.cli import UsageError, read_json
from jlab.data import Batch, DataConfig, Groups, evaluation_batches, load_groups
from jlab.hub import write_config
from jlab.nn import TransformerConfig
from jlab.nn.formats import BlockFormat, Format, IntFormat, parse_format
from jlab.training.config import from_dict
from jlab.training.language_config import LanguageModelConfig
from jlab.training.pretrained import Model, check_model, is_run, load_model
from jlab.training.run import tell_stages

if TYPE_CHECKING:
    from evals.quantized import Config


class Setting(NamedTuple):
    """A way to quantise the model; without a method the model as it is."""

    method: str | None
    fmt: Format | None

    @property
    def label(self) -> str:
        """For tables, folders and messages."""
        return "base" if self.method is None else f"{self.method} {self.fmt}"


class Inputs(NamedTuple):
    """All that is read."""

    model: Model
    settings: list[Setting]
    windows: Windows
    calibration: list[Batch]
    content: list[list[str]]  # digests of the calibration windows
    fingerprints: dict[str, str]


def check(config: "Config") -> list[Setting]:
    """The settings, after all that can be checked without reading the model.

    Raises:
      UsageError, FileNotFoundError, ValueError: one line.
    """
    check_model(config.model, config.revision)
    settings = [Setting(None, None)]
    for method in config.method:
        grid = "awq_asym" if method == "awq" else "asym"
        names = config.formats or [f"int{bits}:{grid}" for bits in config.bits]
        settings += [Setting(method, parse_format(name)) for name in names]
    for setting in settings[1:]:
        _check_setting(config, setting)
    return settings


def _check_setting(config: "Config", setting: Setting) -> None:
    fmt = setting.fmt
    if isinstance(fmt, BlockFormat):
        if setting.method != "rtn":
            raise UsageError(f"formats: {fmt} is for rtn alone; method names {setting.method}")
        if config.group_size is not None:
            raise UsageError(f"group_size must be left out with {fmt}, which has blocks")
    if config.save == "packed" and not isinstance(fmt, IntFormat):
        raise UsageError(f"save: packed is for integer formats; formats names {fmt}")


def read_inputs(config: "Config", settings: list[Setting]) -> Inputs:
    """Model, windows to measure on, and calibration windows.

    Raises:
      ValueError: text that is too short, or a model that the settings do not fit; one line.
    """
    tell = tell_stages()
    tell(f"reading {config.model}", 0)
    model = load_model(config.model, config.revision, config.dtype)
    _check_model(config, model.config)
    data = _data(config)
    text = load_groups(data, tell, model.tokenizer)
    fingerprints = dict(text.fingerprints)
    calibrating = text
    if config.calibration:
        calibrating = load_groups(replace(data, groups=config.calibration), tell, model.tokenizer)
        named = calibrating.fingerprints.items()
        fingerprints |= {f"calibration {name}": digest for name, digest in named}
    for groups in {id(text): text, id(calibrating): calibrating}.values():
        for remark in groups.remarks():
            tell(remark, 0)
    calibration = _batches(config, data, calibrating, "train", config.calibration_windows)
    windows = _windows(text, _batches(config, data, text, config.split, config.limit))
    content = [digests(batch) for batch in calibration]
    return Inputs(model, settings, windows, calibration, content, fingerprints)


def _data(config: "Config") -> DataConfig:
    """The text that is named, or that the model was trained on."""
    folder = Path(config.model).expanduser()
    if config.data != DataConfig() or not is_run(folder):
        return config.data
    return from_dict(LanguageModelConfig, read_json(folder / "model.json")["config"]).data


def _check_model(config: "Config", model: TransformerConfig) -> None:
    """Refuse groups that do not fit, and a model that cannot be saved, before it is quantised."""
    if config.save != "nothing":
        write_config(model)
    if config.group_size is None:
        return
    for layer in model.pattern:
        for name, inputs in (
            ("its width", model.d_model),
            ("its heads", layer.heads * layer.head_dim),
            ("its MLP", layer.d_ff),
        ):
            if inputs % config.group_size:
                raise ValueError(
                    f"group_size must divide the inputs of every linear map; got"
                    f" {config.group_size}, and {name} has {inputs}"
                )


def _batches(
    config: "Config", data: DataConfig, text: Groups, split: str, limit: int
) -> list[Batch]:
    import jax

    size = -(-config.batch // jax.device_count()) * jax.device_count()
    packed = getattr(text, split)
    return list(evaluation_batches(packed, size, limit, data.document_mask))


def _windows(text: Groups, batches: list[Batch]) -> Windows:
    import numpy as np

    group: Any = np.concatenate([batch.group[batch.ids >= 0] for batch in batches])
    return Windows(text.names, batches, [digests(batch) for batch in batches], group, [])
