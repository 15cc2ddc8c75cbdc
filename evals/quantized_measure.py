"""What `python -m evals quantized` measures by one method at one format, kept in a store.

The model is quantised once for all its windows, and only where one of them, its report or its
folder is missing.
"""

import functools
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from evals.quantized_inputs import Inputs, Setting
from evals.quantized_save import save
from evals.window_sums import mean_losses, window_sums
from jlab.jobs.results import Store
from jlab.precision import QuantizedModel, model_size, quantize_model, rounded_already
from jlab.training.mesh import shard_params
from jlab.training.signals import Interrupted

if TYPE_CHECKING:
    from evals.quantized import Config


class Measured(NamedTuple):
    """The numbers of one setting."""

    setting: Setting
    losses: dict[str, Float[np.ndarray, "n"]]  # of windows, by group
    size: dict[str, float]  # `jlab.precision.Size`
    maps: list[dict[str, Any]]  # `jlab.precision.MapReport`, in order


def measure(
    config: "Config", inputs: Inputs, setting: Setting, store: Store, stop: Callable[[], bool]
) -> Measured:
    """Everything about one setting; only what the store lacks is computed.

    Raises:
      Interrupted: as `stop` says; what was computed is stored.
    """
    model, title = inputs.model, setting.label
    how = None if setting.method is None else described(config, inputs, setting)

    def go_on() -> None:
        _go_on(stop, title)

    def tell(line: str) -> None:
        print(f"{title}: {line}", file=sys.stderr, flush=True)
        go_on()

    @functools.cache
    def quantised() -> QuantizedModel:
        go_on()
        return _quantise(config, inputs, setting, tell)

    @functools.cache
    def variables() -> dict[str, Any]:
        params = model.variables["params"] if how is None else quantised().params
        return {"params": shard_params(params, model.mesh)}

    fixed = {"model": model.identity, "quantised": how}
    key = store.key(measure="maps", **fixed)
    if key not in store:
        store.append(key, {"setting": title, **_report(model.variables, setting, quantised)})
    if how is not None and config.save != "nothing":
        folder = Path(config.save_to) / title.replace(" ", "-").replace(":", "-")
        saved = store.key(measure="saved", folder=str(folder.resolve()), kind=config.save, **fixed)
        if saved not in store or not (folder / "config.json").is_file():
            save(config, model, quantised(), folder)
            store.append(saved, {"setting": title, "folder": str(folder)})
    sums = window_sums(
        (model.config if how is None else rounded_already(model.config), variables, model.mesh),
        inputs.windows,
        {"measure": "window", **fixed},
        {"setting": title},
        store,
        go_on,
        title,
    )
    row = store[key]
    return Measured(setting, mean_losses(inputs.windows, sums), row["size"], row["maps"])


def _go_on(stop: Callable[[], bool], title: str) -> None:
    if stop():
        raise Interrupted(f"stopped at {title}")


def described(config: "Config", inputs: Inputs, setting: Setting) -> dict[str, Any]:
    """JSON of what decides the quantised weights and their report, besides the model's."""
    common = ("group_size", "sequential", "ends", "steps")
    own = ("damping", "act_order", "static_groups") if setting.method == "gptq" else ()
    return {
        "method": setting.method,
        "format": str(setting.fmt),
        "calibration": inputs.content,
        **{name: getattr(config, name) for name in (*common, *own)},
    }


def _quantise(
    config: "Config", inputs: Inputs, setting: Setting, tell: Callable[[str], None]
) -> QuantizedModel:
    own = ("damping", "act_order", "static_groups") if setting.method == "gptq" else ()
    return quantize_model(
        rounded_already(inputs.model.config),
        inputs.model.variables["params"],
        inputs.calibration,
        setting.method,
        setting.fmt,
        config.group_size,
        sequential=config.sequential,
        ends=config.ends,
        step_dtype=config.steps,
        tell=tell,
        **{name: getattr(config, name) for name in own},
    )


def _report(
    variables: dict[str, Any], setting: Setting, quantised: Callable[[], QuantizedModel]
) -> dict[str, Any]:
    if setting.method is None:
        params = variables["params"]
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
        bits = 8 * params["embed"]["embedding"].dtype.itemsize
        return {"size": {"packed": size, "dense": size, "bits_per_weight": bits}, "maps": []}
    made = quantised()
    size = model_size(made.params, made.kernels, setting.fmt)
    return {"size": size._asdict(), "maps": [asdict(line) for line in made.report]}
