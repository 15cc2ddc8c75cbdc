"""Configs survive JSON; what is not a config is refused by the name of the field."""

import dataclasses
import importlib
import json
from dataclasses import dataclass, field, fields, replace
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs import PRESETS
from jlab.training import LanguageModelConfig, LoopConfig, OptimConfig
from jlab.training.config import differences, from_dict, nearest, settings_digest, to_dict

EVERY = [
    (preset, size, config)
    for preset in PRESETS
    for size, config in importlib.import_module(f"configs.{preset}").SIZES.items()
]


def through_json(config):
    return json.loads(json.dumps(to_dict(config)))


@pytest.mark.parametrize("config", [c for _, _, c in EVERY], ids=[f"{p}-{s}" for p, s, _ in EVERY])
def test_every_preset_survives_json(config):
    assert from_dict(type(config), through_json(config)) == config
    assert from_dict(type(config), {}, base=config) == config


rates = st.floats(1e-9, 1e3)


@given(
    learning_rate=rates,
    decay=rates,
    steps=st.integers(1, 10**9),
    seed=st.integers(0, 2**31 - 1),
    groups=st.lists(st.text(min_size=1), min_size=1).map(tuple),
    name=st.sampled_from(["adamw", "lion", "sgd"]),
    masked=st.booleans(),
    limit=st.none() | st.integers(1, 10**12),
)
def test_any_value_of_a_field_survives_json(
    learning_rate, decay, steps, seed, groups, name, masked, limit
):
    config = LanguageModelConfig(
        optimizer=OptimConfig(name=name, learning_rate=learning_rate, weight_decay=decay),
        loop=LoopConfig(steps=steps),
        seed=seed,
    )
    data = replace(config.data, groups=groups, document_mask=masked, max_bytes_per_group=limit)
    config = replace(config, data=data)
    assert from_dict(LanguageModelConfig, through_json(config)) == config
    # Any part of it, over another config, changes just that part.
    part = {"optimizer": {"weight_decay": decay}, "data": {"groups": list(groups)}}
    base = LanguageModelConfig(seed=7, optimizer=OptimConfig(b1=0.5))
    changed = from_dict(LanguageModelConfig, part, base=base)
    assert changed.seed == 7
    assert changed.optimizer == OptimConfig(b1=0.5, weight_decay=decay)
    assert changed.data == replace(LanguageModelConfig().data, groups=groups)


def test_whole_numbers_pass_for_floats_and_come_back_as_floats():
    config = from_dict(LanguageModelConfig, {"optimizer": {"learning_rate": 1}})
    assert type(config.optimizer.learning_rate) is float


@dataclass(frozen=True)
class Inner:
    width: int = 1
    share: float = 0.5


@dataclass(frozen=True)
class Outer:
    inner: Inner = field(default_factory=Inner)
    layers: tuple[Inner, ...] = (Inner(),)
    shares: tuple[float, ...] | None = None
    kind: Literal["a", "b"] = "a"
    on: bool = False
    name: str | None = None
    number: int = 0


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"nmber": 1}, "unknown config field nmber; nearest: number"),
        ({"inner": {"widht": 1}}, "unknown config field inner.widht; nearest: width"),
        ({"inner": {"zzz": 1}}, "unknown config field inner.zzz; known: width, share"),
        ({"layers": [{}, {"sahre": 1}]}, "unknown config field layers.1.sahre; nearest: share"),
        ({"number": True}, "number must be of type int; got True"),
        ({"number": 1.5}, "number must be of type int; got 1.5"),
        ({"number": "1"}, "number must be of type int; got '1'"),
        ({"number": None}, "number must be of type int; got None"),
        ({"on": 1}, "on must be of type bool; got 1"),
        ({"name": 1}, "name must be of type str; got 1"),
        ({"inner": {"share": "0.5"}}, "inner.share must be of type float; got '0.5'"),
        ({"inner": {"share": True}}, "inner.share must be of type float; got True"),
        ({"inner": 3}, "inner must be a JSON object; got 3"),
        ({"inner": [1]}, "inner must be a JSON object; got [1]"),
        ({"layers": {"width": 1}}, "layers must be a list; got {'width': 1}"),
        ({"layers": "ab"}, "layers must be a list; got 'ab'"),
        ({"layers": [1]}, "layers.0 must be a JSON object; got 1"),
        ({"shares": [0.5, "x"]}, "shares.1 must be of type float; got 'x'"),
        ({"shares": 0.5}, "shares must be a list; got 0.5"),
        ({"kind": "c"}, "kind must be one of a, b; got 'c'"),
        ({"kind": ["a"]}, "kind must be one of a, b; got ['a']"),
        ([], "config must be a JSON object; got []"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_what_does_not_fit_is_refused_in_one_line_by_name(value, message):
    for base in (None, Outer(number=2)):
        with pytest.raises(ValueError, match=r"must be|unknown") as refused:
            from_dict(Outer, value, base=base)
        assert str(refused.value) == message


def test_a_config_that_refuses_its_values_does_so_from_json_too():
    with pytest.raises(ValueError, match=r"^loop\.steps must be >= 1; got 0$"):
        from_dict(LanguageModelConfig, {"loop": {"steps": 0}})


@pytest.mark.parametrize("kind", [LanguageModelConfig, type(EVERY[0][2])])
def test_an_unknown_field_is_found_at_every_depth_of_real_configs(kind):
    def places(config, path=()):
        yield path
        for part in fields(config):
            value = getattr(config, part.name)
            if dataclasses.is_dataclass(value):
                yield from places(value, (*path, part.name))

    found = list(places(kind()))
    assert len(found) >= 6
    for path in found:
        value = {"typo_of_a_field": 1}
        for name in reversed(path):
            value = {name: value}
        full = ".".join((*path, "typo_of_a_field"))
        with pytest.raises(ValueError, match=rf"^unknown config field {full}; "):
            from_dict(kind, value)


def test_differences_name_fields_with_both_values():
    one = {"a": 1, "b": {"c": [1, 2], "d": None}, "p": [{"x": 1}, {"x": 2}], "only": 1}
    other = {"a": 1, "b": {"c": [1], "d": 0}, "p": [{"x": 1}, {"x": 3}]}
    assert differences(one, other) == [
        "b.c: [1, 2] and [1]",
        "b.d: None and 0",
        "only: 1 and None",
        "p.1.x: 2 and 3",
    ]
    assert differences(one, one) == []


def test_the_nearest_name_is_offered_or_all_of_them():
    assert nearest("lenght", ["length", "width"]) == "nearest: length"
    assert nearest("zzz", ["length", "width"]) == "known: length, width"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"batch_size": 0}, "batch_size must be >= 1; got 0"),
        ({"accumulate": 0}, "accumulate must be >= 1; got 0"),
        ({"eval_windows": 0}, "eval_windows must be >= 1; got 0"),
        ({"test_windows": -1}, "test_windows must be >= 1; got -1"),
        ({"accumulate": 3}, "batch_size must be a multiple of accumulate = 3; got 8"),
        ({"z_loss": -0.1}, "z_loss must be >= 0 and finite; got -0.1"),
        ({"z_loss": float("nan")}, "z_loss must be >= 0 and finite; got nan"),
        ({"seed": -1}, "seed must be >= 0; got -1"),
    ],
)
def test_a_language_model_config_refuses_by_name(values, message):
    with pytest.raises(ValueError, match="must be") as refused:
        LanguageModelConfig(**values)
    assert str(refused.value) == message


def test_settings_are_told_apart_but_for_seed_and_what_changes_no_number():
    config = LanguageModelConfig()
    digest = settings_digest(config)
    assert digest == settings_digest(replace(config, seed=3))
    assert digest == settings_digest(replace(config, loop=LoopConfig(log_every=1, keep=9)))
    assert digest != settings_digest(replace(config, batch_size=9))
    assert digest != settings_digest(replace(config, optimizer=OptimConfig(b1=0.5)))
