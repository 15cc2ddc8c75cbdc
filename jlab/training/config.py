"""Configs to JSON and back: nested frozen dataclasses, checked strictly when read."""

import dataclasses
import difflib
import hashlib
import itertools
import math
import types
import typing
from typing import Any

# Fields that may differ between a run and its continuation: they change no number but for rounding.
_LOOPS = ("loop", "transfer.loop", "tune.loop")
FREE = (
    "mesh.",
    "data.cache_dir",
    "workers",
    "ray",
    *(f"{x}.{y}" for x in _LOOPS for y in ("log_every", "keep")),
)


def to_dict(config: Any) -> Any:
    """A config as JSON values; tuples become lists."""
    if dataclasses.is_dataclass(config):
        return {
            field.name: to_dict(getattr(config, field.name)) for field in dataclasses.fields(config)
        }
    if isinstance(config, (list, tuple)):
        return [to_dict(item) for item in config]
    return config


def from_dict(kind: Any, value: Any, where: str = "", base: Any = None) -> Any:
    """A config of type `kind` from JSON values.

    Args:
      kind: a dataclass, or the annotation of one of its fields.
      value: what `to_dict` gave, or part of it.
      where: dotted name of the value, for messages.
      base: config whose values stand in for fields that are missing (None: the defaults).

    Raises:
      ValueError: an unknown field (with the nearest name), or a value of the wrong type.
    """
    if dataclasses.is_dataclass(kind):
        return _dataclass_from(kind, value, where, base)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return _union_from(arguments, value, where)
    if origin is typing.Literal:
        return _checked(
            value in arguments, value, where, f"one of {', '.join(map(str, arguments))}"
        )
    if origin is tuple:
        _checked(isinstance(value, (list, tuple)), value, where, "a list")
        bases = itertools.chain(base or (), itertools.repeat(None))
        items = enumerate(zip(value, bases, strict=False))
        return tuple(from_dict(arguments[0], x, f"{where}.{i}", b) for i, (x, b) in items)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    # A bool is an int to Python, but not to a person.
    fits = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
    return _checked(fits, value, where, f"of type {kind.__name__}")


def check_least(config: Any, least: dict[str, float], where: str = "") -> None:
    """Refuse fields below the least value that each may have.

    Raises:
      ValueError: with the field, its value and the bound.
    """
    for name, bound in least.items():
        if not getattr(config, name) >= bound:
            raise ValueError(f"{where}{name} must be >= {bound}; got {getattr(config, name)}")


def check_positive(config: Any, *names: str) -> None:
    """Refuse fields that are not positive and finite.

    Raises:
      ValueError: with the field and its value.
    """
    for name in names:
        if not 0 < getattr(config, name) < math.inf:
            raise ValueError(f"{name} must be positive and finite; got {getattr(config, name)}")


def settings_digest(config: Any) -> str:
    """A short digest of what decides the numbers of a recipe, but for its seed.

    What may differ between a run and its continuation (`FREE`) is left out.
    """
    flat = [line for line in _leaves(to_dict(config)) if not line.startswith(("seed=", *FREE))]
    return hashlib.blake2b("\n".join(flat).encode(), digest_size=8).hexdigest()


def _leaves(value: Any, where: str = "") -> list[str]:
    """`dotted.name=value` of every leaf of a `to_dict` value."""
    if isinstance(value, list):
        value = {str(i): item for i, item in enumerate(value)}
    if not isinstance(value, dict):
        return [f"{where}={value!r}"]
    names = [(f"{where}.{name}" if where else name, item) for name, item in value.items()]
    return [line for name, item in names for line in _leaves(item, name)]


def differences(one: Any, other: Any, where: str = "") -> list[str]:
    """Dotted names, with both values, of the fields in which two `to_dict` values differ."""
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        one, other = ({str(i): item for i, item in enumerate(items)} for items in (one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        names = sorted(one.keys() | other.keys())
        inner = [
            differences(one.get(name), other.get(name), f"{where}.{name}".lstrip("."))
            for name in names
        ]
        return [line for lines in inner for line in lines]
    return [] if one == other else [f"{where}: {one} and {other}"]


def placed(where: str, message: str) -> str:
    """A message about a field of the config at `where`, with its place if it does not say it."""
    return message if message.startswith(f"{where}.") or not where else f"{where}: {message}"


def nearest(name: str, known: typing.Iterable[str]) -> str:
    """A hint at the known names that are most like `name`: those with the same last part first."""
    known = list(known)
    same = [other for other in known if _last_part(other) == _last_part(name)]
    close = same or difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if close:
        return f"nearest: {', '.join(close[:3])}"
    return f"known: {', '.join(known)}" if len(known) <= 20 else "--help lists what there is"


def _last_part(name: str) -> str:
    return name.rpartition(".")[2].lstrip("-")


def _dataclass_from(kind: type, value: Any, where: str, base: Any) -> Any:
    _checked(isinstance(value, dict), value, where or "config", "a JSON object")
    hints = typing.get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind)}
    for name in value:
        if name not in fields:
            full = f"{where}.{name}".lstrip(".")
            raise ValueError(f"unknown config field {full}; {nearest(name, fields)}")
    given = {
        name: from_dict(
            hints[name],
            item,
            f"{where}.{name}".lstrip("."),
            None if base is None else getattr(base, name),
        )
        for name, item in value.items()
    }
    try:
        return kind(**given) if base is None else dataclasses.replace(base, **given)
    except ValueError as error:
        raise ValueError(placed(where, str(error))) from None


def _union_from(arguments: tuple, value: Any, where: str) -> Any:
    if value is None and type(None) in arguments:
        return None
    kinds = [kind for kind in arguments if kind is not type(None)]
    for kind in kinds[:-1]:
        try:
            return from_dict(kind, value, where)
        except ValueError:
            continue  # the last kind of the union says what is wrong
    return from_dict(kinds[-1], value, where)


def _checked(fits: bool, value: Any, where: str, allowed: str) -> Any:
    if not fits:
        raise ValueError(f"{where} must be {allowed}; got {value!r}")
    return value
