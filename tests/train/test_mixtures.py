"""The mixing method of a run by its config: every name, its files, and what does not fit."""

import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from configs.lm import SIZES
from jlab.mixing import AioliConfig
from jlab.training.config import to_dict
from jlab.training.language_model import with_vocabulary
from train.mixtures import MixtureConfig, check_reference, make_mixer

MODEL = SIZES["tiny"].language_model()
GROUPS = SimpleNamespace(
    tokenizer=SimpleNamespace(vocab_size=257), fingerprints={"tokenizer": "aa", "code": "bb"}
)


@pytest.fixture
def reference(tmp_path):
    """The folder of a model of the same shape, as far as its record goes."""
    record = {
        "config": to_dict(with_vocabulary(MODEL, GROUPS)),
        "fingerprints": {"tokenizer": "aa", "code": "other text"},
    }
    (tmp_path / "model.json").write_text(json.dumps(record))
    return tmp_path


@pytest.mark.parametrize(
    ("fields", "needs"),
    [
        ({"method": "stratified"}, set()),
        ({"method": "static", "proportions": (0.5, 0.5)}, set()),
        ({"method": "skillit", "rate": 0.3, "update_steps": 9}, {"eval_loss"}),
        ({"method": "odm", "update_steps": 7}, {"train_loss"}),
        ({"method": "aioli"}, {"eval_loss"}),
        ({"method": "doge", "rate": 0.1}, {"train_loss", "gradients"}),
    ],
)
def test_every_method_has_its_name(fields, needs):
    mixer = make_mixer(MixtureConfig(**fields))
    assert mixer.needs == needs
    state = mixer.init(jax.random.key(0), 2)
    np.testing.assert_allclose(mixer.result(state), [0.5, 0.5])
    if fields["method"] == "odm":
        assert mixer.plan(state).steps == 7


def test_a_graph_is_read_with_rows_of_trained_groups(tmp_path):
    (tmp_path / "g.json").write_text("[[0.9, 0.9], [0.1, 0.1]]")
    mixer = make_mixer(MixtureConfig(method="skillit", graph=str(tmp_path / "g.json")))
    state = mixer.init(jax.random.key(0), 2)
    assert mixer.plan(state).steps == 0


def test_a_reference_of_the_same_shape_and_tokens_fits(reference):
    config = MixtureConfig(method="doremi", reference=str(reference))
    check_reference(config, MODEL, GROUPS)  # other text of the groups is no matter
    assert "reference_loss" in make_mixer(config).needs


def test_a_reference_of_another_shape_or_tokenizer_is_refused(reference):
    config = MixtureConfig(method="doremi", reference=str(reference))
    path = reference / "model.json"
    record = json.loads(path.read_text())
    other = {**record, "fingerprints": {"tokenizer": "cc"}}
    path.write_text(json.dumps(other))
    with pytest.raises(ValueError, match=r"another model \(there and here\): tokenizer: .*cc"):
        check_reference(config, MODEL, GROUPS)
    record["config"]["model"]["d_model"] = 32
    path.write_text(json.dumps(record))
    with pytest.raises(ValueError, match="d_model: 32 and 64"):
        check_reference(config, MODEL, GROUPS)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"aioli": AioliConfig(sweeps=9)}, "aioli is read by method aioli only"),
        ({"update_steps": 5}, "update_steps is read by methods skillit, odm; .* is stratified"),
        ({"method": "odm", "rate": 1.0}, "rate is read by methods skillit, doremi, doge; .* odm"),
        ({"method": "doge", "rate": float("inf")}, "rate must be positive and finite; got inf"),
    ],
)
def test_settings_that_nobody_reads_are_refused(fields, message):
    with pytest.raises(ValueError, match=f"^mixture.{message}"):
        MixtureConfig(**fields)
