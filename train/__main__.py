"""Train a preset: `python -m train PRESET [--field value ...]`."""

import sys
from pathlib import Path
from typing import Any

from configs import PRESETS
from jlab.cli import (
    OneLineParser,
    UsageError,
    choose,
    guarded,
    listing,
    load,
    overwrite,
    parse_config,
    read_config,
    run_numbers,
)


def main() -> int:
    """Entry point of `python -m train` and `jlab-train`."""
    return guarded(_main)


def _main(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(listing("python -m train", PRESETS, "PRESET"))
        return 0
    preset = choose(arguments[0], PRESETS, "PRESET")
    module = load(f"configs.{preset}")
    program = f"python -m train {preset}"
    parser = _options(module, program)
    options, rest = parser.parse_known_args(arguments[1:])
    own_seed = "--seed" in {word.split("=")[0] for word in rest}
    _check_options(options, own_seed)
    folder = _resumed_folder(options, preset) if options.resume is not None else None
    saved = _saved_config(options, folder, preset, keeps_seeds=folder is not None or not own_seed)
    options.size = options.size or next(iter(module.SIZES))
    base = module.SIZES[choose(str(options.size), module.SIZES, "size")]
    config = parse_config(overwrite(base, saved), rest, program, parser)
    if options.seeds is None:
        own_seed = own_seed or config.seed != base.seed
        options.seeds = [config.seed] if own_seed else list(module.SEEDS[options.size])
    return _run(preset, module, options, config, folder)


def _options(module: Any, program: str) -> OneLineParser:
    sizes = tuple(module.SIZES)
    parser = OneLineParser(
        prog=program,
        add_help=False,
        allow_abbrev=False,
        usage=f"{program} [run options] [--field value ...]",
        description=module.__doc__,
    )
    group = parser.add_argument_group("run options")
    add = group.add_argument
    add("--size", choices=sizes, help=f"preset values to start from (default: {sizes[0]})")
    add("--config", help="JSON file of fields, or a run's config.json, applied before the flags")
    add("--resume", nargs="?", const="", help="go on with this run folder (default: the latest)")
    add(
        "--seeds",
        nargs="+",
        type=int,
        help="seeds to run, one after the other (default: the size's)",
    )
    add("--name", help="name of the run folder (default: the preset's)")
    add("--runs-dir", default="runs", help="folder of all runs (default: runs)")
    add("--dry-run", action="store_true", help="print what would be run, and its cost; run nothing")
    return parser


def _check_options(options: Any, own_seed: bool) -> None:
    name, seeds = options.name, options.seeds or []
    if name is not None and (name in ("", ".", "..") or Path(name).name != name):
        raise UsageError(f"--name must be the name of one folder; got {name!r}")
    if min(seeds, default=0) < 0 or len(set(seeds)) < len(seeds):
        raise UsageError(f"--seeds must be different numbers >= 0; got {' '.join(map(str, seeds))}")
    if seeds and own_seed:
        raise UsageError("--seed and --seeds exclude each other; --seeds runs one or several")
    if options.config is not None and options.resume is not None:
        raise UsageError("--config and --resume exclude each other; --resume reads the run's own")


def _resumed_folder(options: Any, preset: str) -> Path:
    if options.resume:
        folder = Path(options.resume)
    else:
        root = Path(options.runs_dir) / (options.name or preset)
        folders = [root / f"{number:03d}" for number in run_numbers(root)]
        # A run that was killed before it had written its config never began.
        folders = [folder for folder in folders if (folder / "config.json").is_file()]
        if not folders:
            raise UsageError(f"--resume: there is no run in {root}")
        folder = folders[-1]
    if not (folder / "config.json").is_file():
        raise UsageError(f"--resume: {folder} is not a run folder: it has no config.json")
    return folder


def _saved_config(options: Any, folder: Path | None, preset: str, keeps_seeds: bool) -> dict:
    """Fields of the saved config, if one is named; size and seeds become the options'.

    A run that goes on keeps them: others are refused.
    """
    path = options.config if folder is None else folder / "config.json"
    if path is None:
        return {}
    saved = read_config(Path(path), preset)
    for name in ("size", "seeds") if keeps_seeds else ("size",):
        given, there = getattr(options, name), saved.get(name)
        if given is None:
            setattr(options, name, there)
        elif folder is not None and given != there:
            raise UsageError(
                f"{folder} belongs to another config: {name} is {there} there, {given} here"
            )
    return saved["config"]


def _run(preset: str, module: Any, options: Any, config: Any, folder: Path | None) -> int:
    from train import driver

    if options.dry_run:
        return driver.dry_run(module.RECIPE, config)
    record = {"preset": preset, "size": options.size, "seeds": options.seeds}
    root = Path(options.runs_dir) / (options.name or preset)
    return driver.train(module.RECIPE, config, record, root, folder)


if __name__ == "__main__":
    sys.exit(main())
