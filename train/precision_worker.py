"""One of the processes that train a precision sweep: `python -m train.precision_worker FOLDER`.

`train precision_sweep` starts them. FOLDER is that of a seed, with its config in `sweep.json`.
"""

import sys
from pathlib import Path

from jlab.cli import guarded, read_json


def main() -> int:
    """Train what no other worker has trained or is training."""
    return guarded(_main)


def _main(arguments: list[str]) -> int:
    from jlab.data import load_groups
    from jlab.training.config import from_dict
    from jlab.training.devices import use_compilation_cache
    from jlab.training.run import Run, tell_stages
    from jlab.training.signals import Interrupted
    from train.precision_sweep import Config
    from train.precision_units import work

    folder = Path(arguments[0])
    sweep = read_json(folder / "sweep.json")
    use_compilation_cache()
    config = from_dict(Config, sweep["config"])
    out = Run(folder, "worker")
    out.settings = sweep["settings"]
    try:
        work(config, load_groups(config.data, tell_stages()), out, sweep["resume"])
    except Interrupted as stop:
        out.say(str(stop))
    return 0


if __name__ == "__main__":
    sys.exit(main())
