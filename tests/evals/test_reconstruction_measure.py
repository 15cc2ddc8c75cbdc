"""Levels, groups and the perceptual distance of `evals reconstruction`, on untrained models."""

from dataclasses import replace

import numpy as np
import pytest

from configs.vqvae import SIZES
from evals.reconstruction import Config
from evals.reconstruction_inputs import Inputs, Network, Subject
from evals.reconstruction_measure import Measured, measure
from evals.reconstruction_scores import summary_of
from jlab.data import ImageConfig, load_images
from jlab.jobs import open_store
from jlab.training.mesh import make_mesh
from jlab.vq.config import CodebookConfig
from jlab.vq.perceptual import _NUMBERS
from jlab.vq.training import TrainedVQVAE
from jlab.vq.training_config import ImageModelConfig
from jlab.vq.training_state import init_image_state

IMAGES = 5


def measured(folder, config: ImageModelConfig, **networks) -> Measured:
    images = load_images(config.data)
    mesh = make_mesh()
    trained = TrainedVQVAE(config, images, mesh, init_image_state(config, images, mesh))
    subject = Subject("untrained", trained, "identity", 0, images.names, images.validation)
    inputs = Inputs([subject], None, networks.get("perceptual"), 4, {})
    with open_store(folder, {}) as store:
        return measure(Config(images=IMAGES), inputs, subject, store, lambda: False)


def test_levels_in_groups_each_have_their_numbers(tmp_path):
    """Two groups of three levels: six places, and an error for each level."""
    tiny = SIZES["tiny"]
    quantizer = replace(tiny.model.quantizer, codebook=CodebookConfig(size=16), levels=3, groups=2)
    config = ImageModelConfig(model=replace(tiny.model, quantizer=quantizer))
    one = measured(tmp_path / "store", config)
    summary = summary_of(Config(images=IMAGES, samples=20), [one])
    (model,) = summary["models"]
    use = model["use"]
    assert [x["place"] for x in use] == [f"group {g}, level {i}" for g in (0, 1) for i in range(3)]
    assert all(x["tokens"] == IMAGES * 8 and 0 < x["usage"] <= 1 for x in use)
    errors = [x["error"] for x in use]
    assert errors[:3] == errors[3:], "of a level, the mean over groups"
    assert len(set(errors)) == 3
    # Of the sum of all levels; a group has half the channels, and levels say the mean over groups.
    assert model["scores"]["error"]["value"] == pytest.approx(2 * errors[2], rel=1e-4)


def lpips_network() -> Network:
    """Random VGG16 and heads of eight channels; distances are positive."""
    random, features, inputs = np.random.default_rng(0), {}, 3
    for level in _NUMBERS:
        for number in level:
            kernel = random.normal(size=(3, 3, inputs, 8)) / np.sqrt(9 * inputs)
            features[str(number)] = {
                "kernel": kernel.astype(np.float32),
                "bias": np.zeros(8, np.float32),
            }
            inputs = 8
    heads = {f"lin{i}": {"kernel": np.full((8, 1), 0.1, np.float32)} for i in range(len(_NUMBERS))}
    return Network({"features": features, **heads}, "digest")


def test_the_perceptual_distance_of_gray_images(tmp_path, monkeypatch):
    images = np.random.default_rng(0).integers(0, 256, (60, 16, 16, 1), np.uint8)
    path = tmp_path / "gray.npy"
    np.save(path, images)
    data = ImageConfig(groups=(f"gray={path}",), validation_fraction=0.3)
    config = ImageModelConfig(data=data, model=SIZES["tiny"].model)
    one = measured(tmp_path / "store", config, perceptual=lpips_network())
    found = summary_of(Config(images=IMAGES, samples=20, perceptual="x"), [one])["models"][0]
    assert len({row["lpips"] for row in one.rows}) == IMAGES
    score = found["scores"]["lpips"]
    assert 0 < score["low"] < score["value"] < score["high"]
