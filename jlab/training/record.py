"""`model.json` of a run folder: what was trained there, on which data and machine."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path

from jlab.training.config import FREE, differences
from jlab.training.run import Run

Check = Callable[[dict, dict, Path], None]  # saved, now, folder: raises where they differ


def claim_folder(run: Run, record: dict, check: Check | None = None) -> None:
    """Write `model.json`, or check that the one there is of the same run.

    Args:
      run: the folder.
      record: `config`, `fingerprints` and `environment`, and what else belongs to the model.
      check: of what else there is, before `check_record`.

    Raises:
      ValueError: the folder is another run's.
    """
    record, path = {**record, "settings": run.settings}, run.path / "model.json"
    if not path.exists():
        run.write_json("model.json", record)
        return
    saved = json.loads(path.read_text())
    if check is not None:
        check(saved, record, run.path)
    check_record(saved, record, run.path)
    run.check_settings(saved)


def read_record(folder: Path) -> dict:
    """What `model.json` says.

    Raises:
      FileNotFoundError: there is none.
    """
    path = Path(folder) / "model.json"
    if not path.exists():
        raise FileNotFoundError(f"{folder} is not the folder of a trained model: no model.json")
    return json.loads(path.read_text())


def check_record(saved: dict, now: dict, folder: Path) -> None:
    """Refuse other data or another config; warn of another machine.

    Raises:
      ValueError: with what differs.
    """
    changed = differences(saved["fingerprints"], now["fingerprints"])
    if changed:
        raise ValueError(f"data of the run in {folder} changed since: {'; '.join(changed)[:200]}")
    other = [
        line for line in differences(saved["config"], now["config"]) if not line.startswith(FREE)
    ]
    if other:
        raise ValueError(
            f"{folder} belongs to another config (there and now): {'; '.join(other)[:200]}"
        )
    environments = [
        {k: v for k, v in record["environment"].items() if k not in ("command", "commit")}
        for record in (saved, now)
    ]
    moved = differences(*environments)
    if moved:
        warnings.warn(
            f"this machine is not the one that {folder} was started on, so numbers may differ in"
            f" the last bits (there and now): {'; '.join(moved)}",
            stacklevel=3,
        )
