"""`python -m evals reconstruction` on a tiny run: end to end, stopped, batches, bad input."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

import evals.reconstruction_compute
import evals.reconstruction_landscape
import evals.reconstruction_measure
from evals.__main__ import main as evaluate
from jlab.data import evaluation_images
from jlab.training.signals import Interrupted
from jlab.vq.image_metrics import psnr, ssim
from jlab.vq.inception import parameter_shapes
from jlab.vq.training import restore_vqvae
from tests.cli.commands import assert_one_line, run
from tests.cli.sampled import rows_of

SCORES = ("mse", "psnr", "ssim", "error", "relative_error")


@pytest.fixture(scope="module")
def finished(unbroken, cache, tmp_path_factory):
    """The trained run, and a folder where the command has run in a process of its own."""
    trained, *_ = unbroken("vqvae")
    here = tmp_path_factory.mktemp("reconstruction")
    code, out, err = run(here, cache, "evals", "reconstruction", str(trained), "--images", "20")
    assert code == 0, err
    return trained, here, out, err


@pytest.fixture
def no_landscape(monkeypatch):
    """Its numbers depend on nothing that these tests change."""
    found = {"push": [], "descent": []}
    monkeypatch.setattr(evals.reconstruction_landscape, "landscape", lambda out: found)


def summary(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text())


def test_the_command_end_to_end(finished):
    _, here, out, err = finished
    folder = here / "runs/reconstruction/001"
    assert err.splitlines()[-1] == "results in runs/reconstruction/001"
    assert (folder / "summary.md").read_text() == out
    plots = {path.stem: path.stat().st_size for path in (folder / "plots").iterdir()}
    assert set(plots) == {"reconstructions", "codes", "errors", "voronoi", "himmelblau"}
    assert min(plots.values()) > 5000
    said = summary(folder)
    (model,) = said["models"]
    assert (said["images"], model["tokens"], model["codes"]) == ({"digits": 20}, 8, 256)
    for name in SCORES:
        score = model["scores"][name]
        assert score["low"] < score["value"] < score["high"]
    (use,) = model["use"]
    assert (use["tokens"], use["dead"]) == (160, 256 - round(256 * use["usage"]))
    assert "rFID and inception score were not measured" in out
    assert "LPIPS was not measured" in out
    assert len(rows_of(here / "runs/reconstruction/measured")) == 20


def test_numbers_are_those_of_the_model_itself(finished):
    trained, here, *_ = finished
    restored = restore_vqvae(trained)
    images = evaluation_images(restored.images.validation[0], 20)
    extras = restored.state.extras
    variables = {"params": restored.state.params, "codebook": extras["codebook"]}
    with jax.numpy_rank_promotion("allow"):
        found = jax.jit(restored.model.apply)(variables, images)
    said = summary(here / "runs/reconstruction/001")["models"][0]
    value = {name: score["value"] for name, score in said["scores"].items()}
    assert value["psnr"] == pytest.approx(float(psnr(found.images, images)), rel=1e-5)
    assert value["ssim"] == pytest.approx(float(ssim(found.images, images)), rel=1e-4)
    mse = np.square(np.asarray(found.images) - images).mean()
    assert value["mse"] == pytest.approx(float(mse), rel=1e-5)
    apart = np.square(np.asarray(found.latents - found.quantized.out)).sum(-1).mean()
    assert value["error"] == pytest.approx(float(apart), rel=1e-4)
    ids = np.unique(found.quantized.ids)
    assert said["use"][0]["usage"] == len(ids) / 256


def test_no_number_depends_on_the_batch(finished, call, no_landscape):
    trained, here, *_ = finished
    whole = summary(here / "runs/reconstruction/001")["models"][0]
    for batch in ("1", "3", "16"):
        words = ["reconstruction", str(trained), "--images", "20", "--batch", batch]
        code, _, err = call(evaluate, *words, "--out", batch)
        assert code == 0, err
        (model,) = summary(Path(batch))["models"]
        assert model["use"] == whole["use"]
        for name in SCORES:
            assert model["scores"][name] == pytest.approx(whole["scores"][name], rel=1e-5)


def test_a_stopped_call_goes_on_where_it_was(finished, call, monkeypatch, no_landscape):
    trained, *_ = finished
    words = ["reconstruction", str(trained), "--images", "20", "--batch", "4", "--out"]
    code, whole, err = call(evaluate, *words, "whole")
    assert code == 0, err
    digests, seen = evals.reconstruction_measure._digests, []

    def stops(batch):
        seen.append(batch)
        if len(seen) == 4:
            raise Interrupted("stopped at 001")
        return digests(batch)

    monkeypatch.setattr(evals.reconstruction_measure, "_digests", stops)
    code, out, err = call(evaluate, *words, "part")
    assert (code, out) == (0, "")
    assert err.splitlines()[-1].endswith(f"go on with: python -m evals {' '.join(words)} part")
    assert len(rows_of(Path("part/measured"))) == 12
    assert not Path("part/config.json").exists()
    made, row = [], evals.reconstruction_compute._image_row
    monkeypatch.setattr(evals.reconstruction_measure, "_digests", digests)
    monkeypatch.setattr(
        evals.reconstruction_compute, "_image_row", lambda *x: made.append(x) or row(*x)
    )
    code, out, err = call(evaluate, *words, "part")
    assert (code, out, len(made)) == (0, whole, 8), err
    assert summary(Path("part")) == summary(Path("whole"))
    made.clear()
    assert call(evaluate, *words, "part")[:2] == (0, whole)
    assert made == [], "a second call measures nothing"


def test_other_images_of_the_models_shape_and_the_training_split(finished, call, no_landscape):
    trained, *_ = finished
    images = np.random.default_rng(0).integers(0, 256, (60, 8, 8, 1), np.uint8)
    np.save("noise.npy", images)
    words = ["reconstruction", str(trained), "--split", "train", "--images", "7"]
    more = ["--data.groups", "noise=noise.npy", "digits", "--out", "out"]
    code, out, err = call(evaluate, *words, *more)
    assert code == 0, err
    said = summary(Path("out"))
    assert said["images"] == {"noise": 7, "digits": 7}
    groups = said["models"][0]["groups"]
    assert groups["noise"]["mse"]["value"] != groups["digits"]["mse"]["value"]
    assert "## Groups of images" in out


def inception_file(path: Path) -> Path:
    """Random weights of a network of a sixteenth of the width, with 10 classes."""
    random = np.random.default_rng(0)
    tensors = {}
    for name, layer in parameter_shapes(10, 16).items():
        kernel, outputs = layer["kernel"], layer["bias"]
        shape = (kernel[-1], kernel[-2], *kernel[:-2])
        weight = random.normal(size=shape).astype(np.float32) / np.sqrt(np.prod(shape[1:]))
        if name == "fc":
            tensors |= {"fc.weight": weight.astype(np.float32), "fc.bias": np.zeros(outputs, "f4")}
            continue
        tensors[f"{name}.conv.weight"] = weight.astype(np.float32)
        for part, value in (("weight", 1), ("bias", 0), ("running_mean", 0), ("running_var", 1)):
            tensors[f"{name}.bn.{part}"] = np.full(outputs, value, np.float32)
    save_file(tensors, path)
    return path


def test_distances_of_sets_where_a_network_is_given(finished, call, no_landscape):
    trained, *_ = finished
    path = inception_file(Path("inception.safetensors"))
    words = ["reconstruction", str(trained), "--images", "6", "--features", str(path)]
    code, out, err = call(evaluate, *words, "--batch", "3", "--out", "out")
    assert code == 0, err
    found = summary(Path("out"))["models"][0]["sets"]
    assert found["features"] == 2048 // 16
    assert found["frechet"] > 0
    for kind in ("reconstruction", "original"):
        assert 1 <= found[kind]["inception"] <= 10
    assert "| rFID" in out
    assert "needs more images" in out
    assert len(rows_of(Path("out/measured"))) == 3 * 6


def test_every_model_below_a_folder_has_its_row_and_its_plots(finished, call, no_landscape):
    trained, *_ = finished
    for name in ("seed-0", "seed-1"):
        shutil.copytree(trained, Path("several") / name)
    code, out, err = call(evaluate, "reconstruction", "several", "--images", "4", "--out", "out")
    assert code == 0, err
    one, other = summary(Path("out"))["models"]
    assert (one["label"], other["label"]) == ("seed-0", "seed-1")
    assert one["scores"] == other["scores"]
    assert len(rows_of(Path("out/measured"))) == 4, "equal weights are measured once"
    for name in ("seed-0", "seed-1"):
        assert Path("out", name, "plots/reconstructions.png").is_file()
        assert f"| {name}" in out


WRONG = [
    ("no run", "reconstruction", "needs a run folder"),
    ("no folder", "reconstruction nowhere", "nowhere is not a folder"),
    ("no VQ-VAE", "reconstruction empty", "run: empty has no VQ-VAE of `python -m train vqvae`"),
    ("another model", "reconstruction other", "other has no VQ-VAE", "1 other models"),
    ("damaged", "reconstruction damaged", "holds no checkpoint that is whole"),
    ("another size", "reconstruction run --data.groups photographs", "(8, 8, 1)", "(32, 32, 3)"),
    ("no features", "reconstruction run --features no.safetensors", "no no.safetensors"),
    ("a pickle", "reconstruction run --features net.pt", "net.pt is a pickle"),
    ("a damaged file", "reconstruction run --features bad.safetensors", "bad.safetensors"),
    ("a pickled LPIPS", "reconstruction run --perceptual net.pt", "net.pt is a pickle"),
    ("no images", "reconstruction run --images 0", "images must be >= 1; got 0"),
    ("no batch", "reconstruction run --batch 0", "batch must be >= 1; got 0"),
    ("another's folder", "reconstruction run --out taken", "taken has other results"),
]


@pytest.fixture(scope="module")
def wrong(finished, tmp_path_factory):
    trained, *_ = finished
    folder = tmp_path_factory.mktemp("wrong")
    shutil.copytree(trained, folder / "run")
    shutil.copytree(trained, folder / "damaged")
    for manifest in (folder / "damaged/checkpoints/manifests").iterdir():
        manifest.unlink()
    for name in ("empty", "other", "taken"):
        (folder / name).mkdir()
    (folder / "other/model.json").write_text(json.dumps({"config": {}}))
    (folder / "taken/config.json").write_text(json.dumps({"evaluation": "quantized"}))
    (folder / "net.pt").write_bytes(b"\x80\x02}q\x00.")
    (folder / "bad.safetensors").write_bytes(b"none of these")
    return folder


@pytest.mark.parametrize("case", WRONG, ids=[case[0] for case in WRONG])
def test_bad_input_is_one_line_before_anything_is_measured(case, wrong, call, monkeypatch):
    _, words, *says = case
    monkeypatch.chdir(wrong)
    code, out, err = call(evaluate, *words.split())
    assert (code, out) == (2, "")
    assert_one_line(err, says)
    assert not (wrong / "runs").exists()
