"""Run a recipe over its seeds in a numbered folder, and tell what came of it."""

import dataclasses
import json
import logging
import shlex
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import numpy as np

from jlab.cli import FAILED, UsageError, claim_number, fail, read_json
from jlab.jobs.workers import WorkerFailed
from jlab.training.config import FREE, differences, settings_digest, to_dict
from jlab.training.devices import CompileMeter, environment, use_compilation_cache
from jlab.training.loop import NonFiniteLoss
from jlab.training.mesh import start_hosts
from jlab.training.run import Run, tell_stages
from jlab.training.signals import Interrupted, stop_on_signal


def train(recipe: ModuleType, config: Any, record: dict, root: Path, folder: Path | None) -> int:
    """Run every seed that is not done yet, then report; returns the exit code.

    Args:
      recipe: a module of `train` with `prepare(config, tell)`, which reads the data and refuses
        what is wrong with it or with the config, `run(config, inputs, out, resume_command)` with
        what that returned, and `report(config, parts, out)`.
      config: the recipe's config.
      record: preset, size and seeds, for `config.json`.
      root: a new run becomes the next number below it.
      folder: the run folder to go on with; None for a new run.
    """
    use_compilation_cache()
    logging.getLogger("absl").setLevel(logging.CRITICAL)  # orbax: a traceback per failed save
    start_hosts(config.mesh)
    meter = CompileMeter()
    record = {**record, "config": to_dict(config)}
    if folder is not None:
        _check_same_config(record, folder)
    inputs = recipe.prepare(config, tell_stages())  # bad input ends here, with nothing written
    out = Run(folder or _new_folder(root), record["preset"])
    out.settings = settings_digest(config)
    if folder is None:
        out.write_config({**record, "environment": environment()})
    seeds = record["seeds"]
    parts = {seed: out if len(seeds) == 1 else out.child(f"seed-{seed}") for seed in seeds}
    command = f"python -m train {record['preset']} --resume {shlex.quote(str(out.path))}"
    with out.locked():
        code = _run_seeds(recipe, config, inputs, parts, command)
        if out.writes:
            try:
                _tell_results(recipe, config, parts, out, meter)
            except OSError as error:  # the disk is full: what was trained is still there
                code = fail(f"the summary could not be written: {error}", FAILED)
    out.say(f"results in {out.path}")
    for failure in out.failures:
        code = fail(failure, FAILED)
    return code


def _tell_results(
    recipe: ModuleType, config: Any, parts: dict[int, Run], out: Run, meter: CompileMeter
) -> None:
    text = recipe.report(config, parts, out)
    print(text)
    results = {str(seed): part.result() for seed, part in parts.items()}
    out.write_summary({"seeds": results, **meter.totals()}, text)


def dry_run(recipe: ModuleType, config: Any) -> int:
    """Print the config, and what a run of it costs."""
    from jlab.training.estimate import estimate

    use_compilation_cache()
    start_hosts(config.mesh)
    inputs = recipe.prepare(config, tell_stages())
    if hasattr(recipe, "cost"):
        cost = recipe.cost(config, inputs)
    else:
        cost = estimate(config.language_model(), runs=recipe.runs_per_seed(config, inputs))
    print(json.dumps({"config": to_dict(config), "cost": cost}, indent=1))
    return 0


def _run_seeds(
    recipe: ModuleType, config: Any, inputs: Any, parts: dict[int, Run], command: str
) -> int:
    out = next(iter(parts.values()))
    try:
        with stop_on_signal():  # around all: the training loops hear of signals between them too
            for seed, part in parts.items():
                if part.result() is None:
                    seeded = dataclasses.replace(config, seed=seed)
                    part.write_result(recipe.run(seeded, inputs, part, command))
    except Interrupted as stop:
        out.say(f"{stop}; resume with: {command}")
    except (NonFiniteLoss, WorkerFailed) as error:
        return fail(error, FAILED)
    return 0


def _check_same_config(record: dict, folder: Path) -> None:
    saved = read_json(folder / "config.json")
    other = [d for d in differences(saved["config"], record["config"]) if not d.startswith(FREE)]
    if other:
        raise UsageError(f"{folder} belongs to another config (there and now): {'; '.join(other)}")


def _new_folder(root: Path) -> Path:
    """Make the next number below `root`; the same one on every process of the job."""
    number = claim_number(root) if jax.process_index() == 0 else 0
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        number = int(multihost_utils.broadcast_one_to_all(np.int32(number)))
    return root / f"{number:03d}"
