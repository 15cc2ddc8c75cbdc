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
    parse_config,
    read_config,
    read_json,
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
    parser = _options(module)
    options, rest = parser.parse_known_args(arguments[1:])
    folder = _resumed_folder(options, preset) if options.resume is not None else None
    if folder is not None:
        options = _saved_options(options, folder, preset)
    config = _base_config(module, options, preset, folder)
    config = parse_config(config, rest, f"python -m train {preset}", parser.format_help())
    return _run(preset, module, options, config, folder)


def _options(module: Any) -> OneLineParser:
    sizes = tuple(module.SIZES)
    parser = OneLineParser(
        prog="python -m train PRESET", add_help=False, allow_abbrev=False, usage=module.__doc__
    )
    group = parser.add_argument_group("run options")
    add = group.add_argument
    add("--size", choices=sizes, help=f"preset values to start from (default: {sizes[0]})")
    add("--config", help="JSON file of fields, or a run's config.json, applied before the flags")
    add("--resume", nargs="?", const="", help="go on with this run folder (default: the latest)")
    add("--seeds", nargs="+", type=int, help="seeds to run (default: the size's)")
    add("--name", help="name of the run folder (default: the preset's)")
    add("--runs-dir", default="runs", help="folder of all runs (default: runs)")
    add("--dry-run", action="store_true", help="print what would be run, and its cost; run nothing")
    return parser


def _resumed_folder(options: Any, preset: str) -> Path:
    if options.resume:
        folder = Path(options.resume)
    else:
        root = Path(options.runs_dir) / (options.name or preset)
        numbers = run_numbers(root)
        if not numbers:
            raise UsageError(f"--resume: there is no run in {root}")
        folder = root / f"{numbers[-1]:03d}"
    if not (folder / "config.json").is_file():
        raise UsageError(f"--resume: {folder} is not a run folder: it has no config.json")
    return folder


def _saved_options(options: Any, folder: Path, preset: str) -> Any:
    """Size and seeds of the run that goes on; others than saved are refused."""
    saved = read_json(folder / "config.json")
    for name in ("size", "seeds"):
        given = getattr(options, name)
        if given is not None and given != saved[name]:
            raise UsageError(
                f"{folder} belongs to another config: {name} is {saved[name]} there, {given} here"
            )
        setattr(options, name, saved[name])
    if options.config is not None:
        raise UsageError("--config and --resume exclude each other; --resume reads the run's own")
    return options


def _base_config(module: Any, options: Any, preset: str, folder: Path | None) -> Any:
    base = module.SIZES[options.size or next(iter(module.SIZES))]
    path = options.config if folder is None else str(folder / "config.json")
    return base if path is None else read_config(path, base, preset)


def _run(preset: str, module: Any, options: Any, config: Any, folder: Path | None) -> int:
    from train import driver

    if options.dry_run:
        return driver.dry_run(module.RECIPE, config)
    size = options.size or next(iter(module.SIZES))
    seeds = options.seeds or list(module.SEEDS[size])
    record = {"preset": preset, "size": size, "seeds": seeds}
    root = Path(options.runs_dir) / (options.name or preset)
    return driver.train(module.RECIPE, config, record, root, folder)


if __name__ == "__main__":
    sys.exit(main())
