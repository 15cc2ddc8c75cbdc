"""JSON objects read field by field, each value checked as it is read."""

import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

_REQUIRED = object()
_KINDS = {int: "an integer", float: "a number", bool: "true or false", str: "a string"}


def read_json(path: Path) -> dict[str, Any]:
    """The object that a JSON file holds.

    Raises:
      FileNotFoundError, ValueError: no such file, or it holds something else.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path.parent}: no {path.name}")
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} must hold a JSON object; it holds {type(found).__name__}")
    return found


class Fields(NamedTuple):
    """The fields of one object; `null` counts as absent, as it does in `transformers`."""

    values: Mapping[str, Any]
    prefix: str = ""  # of the field names in messages: "rope_parameters."

    def read(self, name: str, kind: type, default: Any = _REQUIRED) -> Any:
        """The field as a value of `kind`: int, float, bool or str."""
        value = self.values.get(name)
        if value is None:
            if default is _REQUIRED:
                raise ValueError(f"{self.prefix}{name} is missing; it must be {_KINDS[kind]}")
            return default
        if kind is float and type(value) is int:
            value = float(value) if abs(value) <= sys.float_info.max else math.inf
        if type(value) is not kind:  # bool is an int to isinstance
            raise ValueError(f"{self.prefix}{name} must be {_KINDS[kind]}; got {value!r}")
        if kind is float and not math.isfinite(value):
            raise ValueError(f"{self.prefix}{name} must be finite; got {value}")
        return value

    def size(self, name: str, default: Any = _REQUIRED) -> Any:
        """The field as a positive integer."""
        value = self.read(name, int, default)
        if value is not default and value < 1:
            raise ValueError(f"{self.prefix}{name} must be at least 1; got {value}")
        return value

    def choice(self, name: str, allowed: Mapping[str, Any], default: Any = _REQUIRED) -> Any:
        """What `allowed` has for the field, a string."""
        value = self.read(name, str, default)
        if value not in allowed:
            names = ", ".join(allowed)
            raise ValueError(f"{self.prefix}{name} must be one of {names}; got {value!r}")
        return allowed[value]
