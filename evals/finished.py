"""Whether a folder holds the results of this very command already."""

from pathlib import Path

from jlab.cli import UsageError, read_json


def is_done(folder: Path, record: dict) -> bool:
    """Whether the folder has a summary, made with the same config and the same files.

    Raises:
      UsageError: it holds the results of another command, or is no folder.
    """
    from jlab.training.config import differences

    if folder.exists() and not folder.is_dir():
        raise UsageError(f"out: {folder} is not a folder")
    if not (folder / "config.json").is_file():
        return False
    saved = read_json(folder / "config.json")
    other = differences({name: saved.get(name) for name in record}, record)
    if other:
        raise UsageError(f"out: {folder} has other results (there and now): {'; '.join(other)}")
    return (folder / "summary.md").is_file()  # written last
