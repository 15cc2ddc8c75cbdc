"""The attention of a linearized model's layers in its `config.json`.

`model_type` is one that `transformers` does not know, so that nothing reads the model as one of
softmax; `base_model_type` and the other fields are those of the softmax model that has the same
weights. The object `linearized` says what attends in each layer, windows included:

    {"layers": [{"attention": "hybrid_terrace", "window": 64, "affine": false,
                 "feature_map": {"kind": "hedgehog", "features": 64, ...}}, ...]}
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from typing import Any

from jlab.hub.fields import Fields
from jlab.nn import FeatureMapConfig, LayerConfig

MODEL_TYPE, BASE_TYPE = "jlab-linearized", "base_model_type"
_FIELD = "linearized"
_SOFTMAX = {
    field.name: field.default
    for field in fields(LayerConfig)
    if field.name in ("attention", "window", "feature_map", "affine")
}
_MAP = {field.name: type(field.default) for field in fields(FeatureMapConfig)}


def softmax_layer(layer: LayerConfig) -> LayerConfig:
    """The layer with plain softmax attention, as `write_linearized` wants it for its base.

    Raises:
      ValueError: its linear branch is switched off, which no field of the file says.
    """
    if not layer.far:
        raise ValueError(
            "layer.far must be true in a saved model: false is for measuring what a model owes to"
            " its linear branch; got False"
        )
    return replace(layer, **_SOFTMAX)


def write_linearized(base: Mapping[str, Any], layers: Sequence[LayerConfig]) -> dict[str, Any]:
    """The fields of a linearized model.

    Args:
      base: fields of the softmax model.
      layers: of the linearized one, from the embedding up.
    """
    said = []
    for layer in layers:
        values = {name: getattr(layer, name) for name in _SOFTMAX}
        said.append(values | {"feature_map": asdict(layer.feature_map)})
    # Without the name of a class: some readers go by that alone.
    rest = {name: value for name, value in base.items() if name != "architectures"}
    types = {"model_type": MODEL_TYPE, BASE_TYPE: base["model_type"]}
    return rest | types | {_FIELD: {"layers": said}}


def read_linearized(
    released: Mapping[str, Any], layers: Sequence[LayerConfig]
) -> tuple[LayerConfig, ...]:
    """The layers of the base model with what a `config.json` says of their attention.

    Raises:
      ValueError: one line that names the field: unknown, missing, or out of its range.
    """
    linearized = released.get(_FIELD)
    if released.get("model_type") != MODEL_TYPE:
        if linearized is not None:
            raise ValueError(
                f"{_FIELD} must be absent unless model_type is {MODEL_TYPE!r};"
                f" model_type is {released.get('model_type')!r}"
            )
        return tuple(layers)
    said = _object(linearized, _FIELD, ["layers"])["layers"]
    if not isinstance(said, list) or len(said) != len(layers):
        got = len(said) if isinstance(said, list) else repr(said)[:40]
        raise ValueError(f"{_FIELD}.layers must be a list of {len(layers)} objects; got {got}")
    return tuple(_read_layer(*both, n) for n, both in enumerate(zip(layers, said, strict=True)))


def _read_layer(layer: LayerConfig, said: object, n: int) -> LayerConfig:
    name = f"{_FIELD}.layers[{n}]"
    values = Fields(_object(said, name, _SOFTMAX))
    maps = Fields(_object(values.values["feature_map"], f"{name}.feature_map", _MAP))
    try:
        feature_map = FeatureMapConfig(**{field: maps.read(field, _MAP[field]) for field in _MAP})
        return replace(
            layer,
            attention=values.read("attention", str),
            window=values.read("window", int, None),
            feature_map=feature_map,
            affine=values.read("affine", bool),
        )
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _object(value: object, name: str, known: Sequence[str]) -> dict[str, Any]:
    """`value`, which must be an object with exactly the known fields."""
    if not isinstance(value, dict):
        raise ValueError(f"{name} must be an object; got {str(value)[:40]!r}")
    for field in known:
        if field not in value:
            raise ValueError(f"{name}.{field} is missing; the fields are {', '.join(known)}")
    for field in value:
        if field not in known:
            raise ValueError(f"{name}.{field} is unknown; the fields are {', '.join(known)}")
    return value
