"""From config to trained model and back: what must match a run folder, and what comes out again."""

import json
import shutil
from dataclasses import replace

import jax
import numpy as np
import pytest

from jlab.mixing import aioli, stratified
from jlab.training import (
    MeshConfig,
    Run,
    make_mesh,
    restore_language_model,
    train_language_model,
)
from jlab.training.language_model import check_fit, init_train_state, state_shapes, with_vocabulary
from tests.training.runs import MIXERS, assert_same_bits, play, rows


@pytest.fixture(scope="module")
def config(tiny):
    """The vocabulary is to be filled in."""
    loop = replace(tiny.loop, checkpoint_every=2)
    return replace(tiny, loop=loop, model=replace(tiny.model, vocab_size=None))


@pytest.fixture(scope="module")
def trained(config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    return folder, train_language_model(config, stratified(), Run(folder))


@pytest.fixture
def folder(trained, tmp_path):
    """A copy of the run to be tampered with."""
    return shutil.copytree(trained[0], tmp_path / "run")


def change(folder, **fields):
    """Overwrite fields of the run's record."""
    path = folder / "model.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def test_training_is_the_loop_on_what_the_config_says(bench, trained, tmp_path):
    folder, model = trained
    loop = replace(bench.config.loop, checkpoint_every=0)
    end = play(bench, MIXERS["stratified"], tmp_path, loop)
    assert_same_bits(model.params, end.train.params)
    assert rows(folder) == rows(tmp_path)
    assert model.config.model.vocab_size == 257
    assert model.groups.names == ("plain", "other")


def test_a_restored_model_has_the_same_losses(trained):
    folder, model = trained
    restored = restore_language_model(folder)
    assert restored.config == model.config
    assert_same_bits(restored.params, model.params)
    assert_same_bits(restored.evaluate("test", 6), model.evaluate("test", 6))


def test_a_finished_run_is_taken_up_without_training_and_some_fields_may_differ(
    config, trained, folder
):
    """Those that change no number."""
    loop = replace(config.loop, log_every=3, keep=5)
    data = replace(config.data, cache_dir=f"{config.data.cache_dir}-moved")
    other = replace(config, loop=loop, data=data, mesh=MeshConfig(data=1))
    again = train_language_model(other, stratified(), Run(folder))
    assert_same_bits(again.params, trained[1].params)
    assert rows(folder) == rows(trained[0])


def test_the_folder_says_what_the_model_is(trained, config):
    record = json.loads((trained[0] / "model.json").read_text())
    assert record["groups"] == ["plain", "other"]
    assert record["vocab_size"] == record["config"]["model"]["vocab_size"] == 257
    assert record["fingerprints"].keys() == {"plain", "other", "tokenizer"}
    assert record["config"]["optimizer"]["learning_rate"] == config.optimizer.learning_rate
    assert {"jax", "numpy", "orbax-checkpoint"} <= record["environment"]["versions"].keys()
    assert not list(trained[0].glob("*.partial"))


@pytest.mark.parametrize(
    ("different", "named"),
    [
        (lambda c: replace(c, batch_size=8), "batch_size: 4 and 8"),
        (lambda c: replace(c, seed=1), "seed: 0 and 1"),
        (lambda c: replace(c, loop=replace(c.loop, steps=14)), "loop.steps: 13 and 14"),
        (
            lambda c: replace(
                c,
                model=replace(c.model, pattern=tuple(replace(p, d_ff=40) for p in c.model.pattern)),
            ),
            "model.pattern.0.d_ff: 32 and 40",
        ),
        (lambda c: replace(c, data=replace(c.data, length=8)), "data.length: 16 and 8"),
    ],
)
def test_another_config_is_refused_with_the_field(config, folder, different, named):
    before = (folder / "metrics.jsonl").read_bytes()
    with pytest.raises(ValueError, match="belongs to another config") as refused:
        train_language_model(different(config), stratified(), Run(folder))
    message = f"{folder} belongs to another config (there and now): {named}"
    assert str(refused.value) == message
    assert (folder / "metrics.jsonl").read_bytes() == before


def test_changed_data_are_named(folder, config):
    record = json.loads((folder / "model.json").read_text())
    prints = {**record["fingerprints"], "plain": "0" * 64}
    change(folder, fingerprints=prints)
    named = rf"^data of the run in {folder} changed since: plain: 000.* and {'.{64}'}$"
    with pytest.raises(ValueError, match=named):
        restore_language_model(folder)
    with pytest.raises(ValueError, match=named):
        train_language_model(config, stratified(), Run(folder))


def test_another_vocabulary_is_refused_with_both_sizes(folder):
    change(folder, vocab_size=300)
    with pytest.raises(ValueError, match="vocabulary") as refused:
        restore_language_model(folder)
    assert str(refused.value) == (
        f"the model in {folder} was trained with a vocabulary of 300 tokens;"
        " the tokenizer now has 257"
    )


def test_another_machine_is_told_with_what_differs(folder):
    record = json.loads((folder / "model.json").read_text())["environment"]
    record["versions"]["jax"], record["cores"] = "0.0.1", 999
    change(folder, environment={**record, "commit": "other", "command": ["other"]})
    with pytest.warns(UserWarning, match="not the one that") as told:
        restore_language_model(folder)
    (text,) = (str(w.message) for w in told)
    _, _, listed = text.partition("(there and now): ")
    assert [entry.split(":")[0] for entry in listed.split("; ")] == ["cores", "versions.jax"]
    assert "versions.jax: 0.0.1 and " in listed


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"is not the folder of a trained model: no model"):
        restore_language_model(tmp_path)


def test_a_folder_without_a_checkpoint_is_refused(folder):
    shutil.rmtree(folder / "checkpoints")
    with pytest.raises(FileNotFoundError, match=r"holds no checkpoint that is whole; it has \[\]"):
        restore_language_model(folder)


def test_a_vocabulary_is_filled_in_or_must_be_large_enough(config, bench):
    def size(given):
        asked = replace(config, model=replace(config.model, vocab_size=given))
        return with_vocabulary(asked, bench.groups).model.vocab_size

    assert [size(given) for given in (None, 257, 300)] == [257, 257, 300]
    with pytest.raises(ValueError, match="vocab_size") as refused:
        size(256)
    assert str(refused.value) == (
        "model.vocab_size must be at least the tokenizer's 257, or None; got 256"
    )


def test_what_cannot_fit_is_refused_before_training(config, bench):
    check_fit(config, bench.groups, aioli(update_steps=6, sweeps=1, probe_steps=2))
    with pytest.raises(ValueError, match="update_steps must be at least 2 groups x"):
        check_fit(config, bench.groups, aioli(update_steps=3, sweeps=1, probe_steps=2))
    small = replace(config, model=replace(config.model, vocab_size=10))
    with pytest.raises(ValueError, match=r"model\.vocab_size must be at least"):
        check_fit(small, bench.groups, stratified())


def test_a_seed_decides_the_parameters(bench):
    other = init_train_state(replace(bench.config, seed=1), make_mesh(), 2).params
    same = bench.fresh().params
    assert np.abs(other["embed"]["embedding"] - same["embed"]["embedding"]).max() > 0.01


def test_the_shapes_of_a_state_are_known_without_making_it(bench):
    def described(tree):
        return jax.tree.map(lambda x: (x.shape, x.dtype, x.sharding), tree)

    assert described(state_shapes(bench.config, make_mesh(), 2)) == described(bench.fresh())
