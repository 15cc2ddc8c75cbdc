"""What both command lines share: typed flags from a config, one-line errors, run folders, seeds.

Run options (`--resume`, `--seeds`, ...) are argparse's; every field of the experiment's config is
a flag by tyro. Whatever is wrong with them ends in one line on stderr and exit code 2.
"""

import argparse
import contextlib
import dataclasses
import importlib
import io
import itertools
import json
import os
import re
import signal
import sys
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

USAGE = 2  # exit code of bad input
FAILED = 1  # exit code of a run that could not finish
_FILE_ERRORS = (
    FileNotFoundError,
    FileExistsError,
    NotADirectoryError,
    IsADirectoryError,
    PermissionError,
)
_LONGEST = 290  # characters of a message about bad input


class UsageError(Exception):
    """Bad input on the command line or in a file that it names; the message is one line."""


def guarded(main: Callable[[Sequence[str]], int]) -> int:
    """Run a command line's main function; errors that are the user's become one line."""
    try:
        try:
            return main(sys.argv[1:])
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # the reader of a pipe, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except (UsageError, ValueError, *_FILE_ERRORS) as error:
        return fail(_shortened(error), USAGE)
    except OSError as error:
        return fail(error, FAILED)
    except KeyboardInterrupt:
        return fail("interrupted", 128 + signal.SIGINT)


def fail(error: object, code: int) -> int:
    """Print one line for an error and return the exit code."""
    line = " ".join(str(error).split())
    print(f"error: {line}", file=sys.stderr)
    return code


def _shortened(error: object) -> str:
    """The message without its middle where it is too long, as with many long paths."""
    line = str(error)
    half = _LONGEST // 2 - 3
    return line if len(line) <= _LONGEST else f"{line[:half]} ... {line[-half:]}"


def listing(program: str, entries: dict[str, str], noun: str) -> str:
    """Help text that lists what can be run."""
    width = max(map(len, entries)) + 2
    lines = [f"  {name:<{width}}{text}" for name, text in entries.items()]
    head = [f"usage: {program} {noun} [--field value ...]", "", f"{noun.lower()}s:"]
    return "\n".join([*head, *lines, "", f"Fields of one: {program} {noun} --help"])


def choose(name: str, entries: dict[str, str], noun: str) -> str:
    """The name if it is known.

    Raises:
      UsageError: it is not; names the nearest one.
    """
    from jlab.training.config import nearest

    if name not in entries:
        raise UsageError(f"unknown {noun.lower()} {name!r}; {nearest(name, entries)}")
    return name


def parse_config(
    config: Any,
    arguments: Sequence[str],
    program: str,
    options: "OneLineParser | None" = None,
) -> Any:
    """Overwrite a config's fields from flags such as `--optimizer.learning-rate 1e-3`.

    Args:
      config: the values that stand where no flag is given.
      arguments: the command line without run options.
      program: name for the help text.
      options: the run options; their help is printed before the fields'.

    Raises:
      UsageError: an unknown flag, a wrong value, or a combination that the config refuses.
    """
    import tyro

    # A part that is None, such as `model.lora`, stays so: without this it would be a subcommand.
    fixed = (tyro.conf.AvoidSubcommands,)
    how = {"default": config, "prog": program, "config": fixed}
    if "--help" in arguments or "-h" in arguments:
        print(options.format_help() if options else "")
        tyro.cli(type(config), args=["--help"], **how)
    check_flags(config, arguments, options)
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            return tyro.cli(type(config), args=list(arguments), **how)
    except SystemExit:
        raise UsageError(_one_line(said.getvalue())) from None


def check_flags(
    config: Any, arguments: Sequence[str], options: "OneLineParser | None" = None
) -> None:
    """Refuse flags that no field and no run option has, by the nearest one that exists.

    Raises:
      UsageError: with the flag.
    """
    from jlab.training.config import nearest

    known = {*_flags(config), *(options.flags() if options else ())}
    for argument in arguments:
        flag = argument.split("=")[0].replace("_", "-")
        if re.match(r"--[a-zA-Z]", flag) and flag not in known:
            raise UsageError(f"unknown flag {flag}; {nearest(flag, sorted(known))}")


def _flags(config: Any, prefix: str = "--") -> typing.Iterator[str]:
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        yield from _flags_of(value, field.name.replace("_", "-"), prefix)


def _flags_of(value: Any, name: str, prefix: str) -> typing.Iterator[str]:
    if dataclasses.is_dataclass(value):
        yield from _flags(value, f"{prefix}{name}.")
    elif isinstance(value, tuple) and value and dataclasses.is_dataclass(value[0]):
        for i, item in enumerate(value):
            yield from _flags(item, f"{prefix}{name}.{i}.")
    else:
        yield f"{prefix}{name}"
        if isinstance(value, bool):
            head, _, last = f"{prefix}{name}".removeprefix("--").rpartition(".")
            yield f"--{head}.no-{last}" if head else f"--no-{last}"


def _one_line(text: str) -> str:
    """The message inside the box that tyro draws, without its title and help text."""
    from jlab.training.config import placed

    words = re.sub(r"\x1b\[[0-9;]*m|[─━╭╮╰╯│┃]|-{5,}", " ", text)
    words = re.sub(r"(Argument helptext|For full helptext|Got errors):?.*", " ", words, flags=re.S)
    words = " ".join(words.split())
    titles = "Parsing error|Value error|Invalid choice|Missing argument|Unrecognized options"
    words = re.sub(rf"^({titles}) |Error parsing (Config: )?", "", words)
    place = re.fullmatch(r"([\w.]+): (.*)", words)
    return placed(*place.groups()) if place else words


def read_config(path: Path, preset: str) -> dict:
    """A run's `config.json`; a JSON file with just fields to change is read as its `config`.

    Raises:
      UsageError: no such file, not JSON, or of another preset.
    """
    saved = read_json(path)
    if saved.get("preset", preset) != preset:
        raise UsageError(f"{path} is a config of preset {saved['preset']!r}, not of {preset!r}")
    return saved if "config" in saved else {"config": saved}


def overwrite(config: Any, fields: dict) -> Any:
    """The config with fields from JSON in place of its own.

    Raises:
      ValueError: an unknown field or a wrong value.
    """
    from jlab.training.config import from_dict

    return from_dict(type(config), fields, base=config)


def read_json(path: Path) -> dict:
    """A JSON object from a file.

    Raises:
      UsageError: no such file, or it does not hold one.
    """
    if not path.is_file():
        raise UsageError(f"config file {path} does not exist")
    try:
        value = json.loads(path.read_text())
    except ValueError as error:
        raise UsageError(f"config file {path} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise UsageError(f"config file {path} must hold a JSON object")
    return value


def run_numbers(root: Path) -> list[int]:
    """Numbers of the run folders below `runs/NAME`, ascending."""
    return sorted(int(p.name) for p in root.glob("[0-9]*") if p.name.isdigit() and p.is_dir())


def claim_number(root: Path) -> int:
    """Make the next number below `root`, whoever else does so at the same time.

    Raises:
      UsageError: the folder cannot be written.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        for number in itertools.count((run_numbers(root) or [0])[-1] + 1):
            with contextlib.suppress(FileExistsError):  # another run has just started
                (root / f"{number:03d}").mkdir()
                return number
    except OSError as error:
        raise UsageError(f"--runs-dir: cannot write in {root}: {error.strerror}") from None


def load(module: str) -> Any:
    """Import the module of a preset, recipe or evaluation."""
    return importlib.import_module(module)


class OneLineParser(argparse.ArgumentParser):
    """An argparse parser whose errors are `UsageError`s."""

    def flags(self) -> list[str]:
        """Every flag that the parser knows."""
        return [flag for action in self._actions for flag in action.option_strings]

    def error(self, message: str):
        """Raise instead of printing the usage and exiting."""
        raise UsageError(message)
