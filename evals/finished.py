"""The folder of an evaluation: whether it may write there, and whether it has already."""

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


def folder_of(out: str, evaluation: str) -> Path | None:
    """The folder that is asked for, which must not hold what another evaluation has made.

    Raises:
      UsageError: it does, or is no folder.
    """
    if not out:
        return None
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"out: {folder} is not a folder")
    record = folder / "config.json"
    if record.is_file() and read_json(record).get("evaluation") != evaluation:
        raise UsageError(f"out: {out} has other results than of `evals {evaluation}`; name another")
    return folder
