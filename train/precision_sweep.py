"""The grid that the precision law is fitted to: sizes x tokens x bits, one table of runs.

The paper (Kumar, Ankner et al., ICLR 2025, arXiv 2411.04330) fits one law to 465 runs: low
precision in training acts as fewer parameters, and rounding afterwards costs the more the longer a
model was trained. `python -m train precision_sweep` trains such a grid with small models, several
at a time (`--workers`, or `--ray` for a cluster), quantises each, and writes `runs.parquet`, which
`python -m evals precision_law` fits. Runs that are done are never trained again.
"""

import os
from dataclasses import dataclass, field
from typing import Any

from jlab.data import Groups, load_groups
from jlab.data.groups import Progress
from jlab.jobs.workers import run_workers
from jlab.mixing import stratified
from jlab.nn.formats import parse_format
from jlab.precision import write_table
from jlab.training.config import check_least, to_dict
from jlab.training.estimate import estimate
from jlab.training.language_config import LanguageModelConfig
from jlab.training.language_model import check_fit
from jlab.training.run import Run
from jlab.training.signals import Interrupted, stop_on_signal
from train.precision_post import PostConfig, check_groups
from train.precision_sweep_plots import plots
from train.precision_sweep_report import text
from train.precision_units import (
    NONE,
    PARTS,
    done,
    rows_of,
    sized,
    train_flops,
    unit_config,
    units,
    work,
)

TABLE = "runs.parquet"


@dataclass(frozen=True)
class Config(LanguageModelConfig):
    """The grid. `model` gives the shape that `sizes` scale; `loop.steps` follows from `tokens`.

    `test_windows` counts the validation windows per group that losses are measured on.
    """

    sizes: tuple[str, ...] = ("16x2", "32x2", "48x2")
    """Models, as width x layers."""
    tokens: tuple[int, ...] = (262_144, 1_048_576, 4_194_304)
    """Tokens of each run, to the nearest whole step; each D is a run of its own."""
    weights: tuple[str, ...] = ("int3", "int4", "int6")
    """Formats of weights in training, alone."""
    activations: tuple[str, ...] = ("int4", "int6")
    """Formats of activations in training, alone."""
    kv: tuple[str, ...] = ("int4", "int6")
    """Formats of keys and values in training, alone."""
    combinations: tuple[str, ...] = ()
    """Several at once, as weights/activations/kv, such as int4/int8/- where - is full precision."""
    low_sizes: tuple[str, ...] = ()
    """Sizes that are also trained in low precision; none given: all."""
    low_tokens: tuple[int, ...] = ()
    """Tokens of those runs; none given: all."""
    post: PostConfig = field(default_factory=PostConfig)
    workers: int = 0
    """Runs at a time, each in a process with its share of the cores; 0: one per core on CPUs, one
    elsewhere."""
    ray: str | None = None
    """Address of a Ray cluster that the workers run on (`auto`: the running one; needs the extra
    `scale`, and the run folder on a disk that all machines share)."""
    ray_gpus: float = 0.0
    """GPUs of each worker on Ray."""

    def __post_init__(self):
        super().__post_init__()
        check_least(self, {"workers": 0, "ray_gpus": 0})
        for name in ("sizes", "tokens", *PARTS, "combinations", "low_sizes", "low_tokens"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise ValueError(f"{name} must be different ones; got {' '.join(map(str, values))}")
        for name in ("sizes", "tokens"):
            if not getattr(self, name):
                raise ValueError(f"{name} must name at least one")
        for name in ("sizes", "tokens"):
            alone = set(getattr(self, f"low_{name}")) - set(getattr(self, name))
            if alone:  # nothing to compare them with
                raise ValueError(f"low_{name} must be among {name}; got {min(alone)}")
        for size in self.sizes:
            check_groups(sized(self.model, size), self.post)
        for tokens in self.tokens:
            least = self.batch_size * self.data.length
            if tokens < least:
                raise ValueError(f"tokens must be at least {least}, those of a step; got {tokens}")
        self._check_formats()

    def _check_formats(self) -> None:
        for name in PARTS:
            for value in getattr(self, name):
                _check_format(name, value)
            _check_bits(name, getattr(self, name))
        for joined in self.combinations:
            names = joined.split("/")
            if len(names) != len(PARTS) or set(names) == {NONE}:
                raise ValueError(
                    f"combinations must be weights/activations/kv, such as int4/int8/-; got"
                    f" {joined!r}"
                )
            for value in names:
                if value != NONE:
                    _check_format("combinations", value)
        _check_bits("post.formats", self.post.formats)


def _check_format(field: str, name: str) -> None:
    try:
        parse_format(name)
    except ValueError as error:
        raise ValueError(f"{field}: {error}") from None


def _check_bits(field: str, names: tuple[str, ...]) -> None:
    """The law knows formats by their bits alone: kinds of the same bits would be one to it."""
    bits = [parse_format(name).bits for name in names]
    if len(set(bits)) < len(bits):
        raise ValueError(
            f"{field} must have different bits, which is all that a table says of them; got"
            f" {' '.join(names)}"
        )


def prepare(config: Config, tell: Progress) -> Groups:
    """Read the groups, and refuse what does not fit them or the devices."""
    import jax

    if config.ray is not None:
        from jlab.jobs.on_ray import check_ray

        check_ray()
    elif config.workers > 1 and jax.default_backend() != "cpu":
        raise ValueError(
            "workers must be 0 or 1 on accelerators, which one process takes whole, or use --ray;"
            f" got {config.workers}"
        )
    groups = load_groups(config.data, tell)
    for unit in units(config)[:1]:
        check_fit(unit_config(config, unit).language_model(), groups, stratified())
    for remark in groups.remarks():
        tell(remark, 0)
    return groups


def run(config: Config, groups: Groups, out: Run, resume_command: str) -> dict[str, Any]:
    """Train every run of one seed, in as many processes as asked for."""
    count = config.workers or (_cores() if config.ray is None else len(units(config)))
    if config.ray is None and count == 1:
        work(config, groups, out, resume_command)
    else:
        _in_processes(config, out, min(count, len(units(config))), resume_command)
    failed = [unit.name for unit in units(config) if "failed" in done(out.path, unit)]
    return {"runs": len(units(config)), "not_finite": failed}


def _cores() -> int:
    """How many runs go well beside each other: on a CPU as many as it has cores."""
    import jax

    return len(os.sched_getaffinity(0)) if jax.default_backend() == "cpu" else 1


def _in_processes(config: Config, out: Run, count: int, resume_command: str) -> None:
    """Hand the seed to workers, which find its config in `sweep.json`, and watch them."""
    out.write_json(
        "sweep.json",
        {"config": to_dict(config), "settings": out.settings, "resume": resume_command},
    )
    told = -1

    def watch() -> None:
        nonlocal told
        ended = sum(bool(done(out.path, unit)) for unit in units(config))
        if ended > told:
            told = ended
            out.say(f"{out.title} {ended}/{len(units(config))} runs, {count} at a time")

    command = ["train.precision_worker", str(out.path)]
    with stop_on_signal() as stop:
        if config.ray is None:
            run_workers(command, count, out.path / "workers", watch, stop)
        else:
            from jlab.jobs.on_ray import run_on_ray

            run_on_ray(command, count, config.ray, config.ray_gpus, watch, stop)
        if stop():
            raise Interrupted("stopped between two runs or at a checkpoint of each")


def cost(config: Config, groups: Groups) -> dict[str, Any]:
    """What a seed trains; the time is that of the largest size, scaled by the work of the rest."""
    every = units(config)
    flops = {unit: train_flops(config, unit) for unit in every}
    largest = max(every, key=flops.get)
    one = estimate(unit_config(config, largest).language_model())
    share = sum(flops.values()) / flops[largest]
    return {
        "runs": len(every),
        "tokens": sum(unit.tokens for unit in every),
        "train_flops": sum(flops.values()),
        "peak_bytes_per_device": one["peak_bytes_per_device"],
        "train_seconds": share * one["train_seconds"],
        "of": "one seed, one run at a time, evaluations and compilation apart",
    }


def report(config: Config, parts: dict[int, Run], out: Run) -> str:
    """The table of all seeds as far as they are, what it shows, and plots."""
    rows = [
        row
        for seed, part in parts.items()
        for unit in units(config)
        for row in rows_of(config, unit, part.path, seed)
    ]
    if not any(row["loss"] for row in rows):
        return "Nothing was trained to its end.\n"
    if out.writes:
        write_table(out.path / TABLE, rows)
    plots(out, rows)
    law = f"\nThe law of these runs: python -m evals precision_law {out.path / TABLE}\n"
    return text(rows) + law
