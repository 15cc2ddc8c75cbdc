"""What evaluations by repeated sampling share: options, run folder, drawing, grading, report.

An evaluation is a module with `Config` (a `SampledConfig`), `prepare(config) -> Task`, which reads
the data and refuses what is wrong before any model is loaded, and `judge(config, task, samples,
folder) -> list[Verdicts]`. The run folder holds `samples/` and the stores of the graders; a run
that was stopped, or that is to have more samples, goes on with `--resume`.
"""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from evals.sampled_config import SampledConfig, Task
from jlab.cli import (
    OneLineParser,
    UsageError,
    claim_number,
    overwrite,
    parse_config,
    read_json,
    run_numbers,
)

if TYPE_CHECKING:
    from jlab.jobs import Store
    from jlab.training.pretrained import Model


def main(module: ModuleType, name: str, words: Sequence[str]) -> int:
    """The command line of one evaluation, after its name."""
    program = f"python -m evals {name}"
    parser = _options(module, program)
    options, rest = parser.parse_known_args(words)
    folder = None if options.resume is None else _resumed(options, name)
    saved = {} if folder is None else read_json(folder / "config.json")
    if saved.get("evaluation", name) != name:
        raise UsageError(f"--resume: {folder} is a run of {saved['evaluation']!r}, not of {name!r}")
    base = overwrite(module.Config(), saved.get("config", {}))
    config = parse_config(base, rest, program, parser)
    if folder is not None and config.n_samples < base.n_samples:
        raise UsageError(
            f"n_samples must be >= {base.n_samples}, which {folder} has or was to have;"
            f" got {config.n_samples}"
        )
    return _run(module, name, config, folder, Path(options.runs_dir))


def _options(module: ModuleType, program: str) -> OneLineParser:
    parser = OneLineParser(
        prog=program,
        add_help=False,
        allow_abbrev=False,
        usage=f"{program} [run options] [--field value ...]",
        description=module.__doc__,
    )
    add = parser.add_argument_group("run options").add_argument
    add("--resume", nargs="?", const="", help="go on with this run folder (default: the latest)")
    add("--runs-dir", default="runs", help="folder of all runs (default: runs)")
    return parser


def _resumed(options, name: str) -> Path:
    root = Path(options.runs_dir) / name
    folders = [root / f"{number:03d}" for number in run_numbers(root)]
    folders = [folder for folder in folders if (folder / "config.json").is_file()]
    if options.resume:
        folders = [Path(options.resume)]
    if not folders:
        raise UsageError(f"--resume: there is no run in {root}")
    if not (folders[-1] / "config.json").is_file():
        raise UsageError(f"--resume: {folders[-1]} is not a run folder: it has no config.json")
    return folders[-1]


def _run(
    module: ModuleType, name: str, config: SampledConfig, folder: Path | None, runs: Path
) -> int:
    from jlab.training.pretrained import check_model, load_model

    check_model(config.model, config.revision)
    task = module.prepare(config)

    from evals.sampled_report import report
    from jlab.jobs import open_store
    from jlab.training.config import to_dict
    from jlab.training.devices import environment, use_compilation_cache
    from jlab.training.mesh import MeshConfig
    from jlab.training.run import Run
    from jlab.training.signals import Interrupted, stop_on_signal

    use_compilation_cache()
    _say(f"reading {config.model}")
    devices = MeshConfig(tensor=config.tensor)
    model = load_model(config.model, config.revision, config.dtype, devices)
    root = runs / name
    path = folder or root / f"{claim_number(root):03d}"
    settings = _settings(config, task, model)
    out = Run(path, name)
    with out.locked(), open_store(path / "samples", settings) as samples:
        out.write_config(
            {"evaluation": name, "config": to_dict(config), "environment": environment()}
        )
        try:
            with stop_on_signal():  # around all: it hears of signals between the stages too
                _draw(config, task, model, samples)
                verdicts = module.judge(config, task, samples, path)
        except Interrupted as stop:
            command = f"python -m evals {name} --resume {shlex.quote(str(path))}"
            out.say(f"{stop}; resume with: {command}")
            return 0
        print(report(config, task, out, samples, verdicts), end="")
    out.say(f"results in {path}")
    return 0


def _settings(config: SampledConfig, task: Task, model: "Model") -> dict:
    """All that every sample depends on; another run with other ones cannot go on with its store."""
    import dataclasses

    sampling = dataclasses.asdict(config.sampling(model.stop_tokens))
    return {
        "model": model.identity,
        "sampling": {k: list(v) if isinstance(v, tuple) else v for k, v in sampling.items()},
        "seed": config.seed,
        "prompts": task.settings,
    }


def _draw(config: SampledConfig, task: Task, model: "Model", samples: "Store") -> None:
    import jax

    from jlab.sampling import Problem, draw_samples

    problems = list(map(Problem, task.names, model.encode(task.prompts)))
    draw_samples(
        samples,
        model.config,
        model.variables,
        problems,
        jax.random.key(config.seed),
        config.n_samples,
        config.sampling(model.stop_tokens),
        decode=model.decode,
        batch=config.batch,
        mesh=model.mesh,
    )


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
