"""`python -m train vqvae` and `vqvae_compare` from end to end, killed, and refused."""

import json
import random
import signal
from pathlib import Path

import numpy as np
import pytest

from configs.vqvae import SIZES
from jlab.data import load_images
from jlab.vq.training import check_fit, restore_vqvae
from tests.cli.commands import assert_one_line, rows, run, start
from tests.cli.test_kill import arrays, assert_same_arrays, steps_logged, stop, wait_until
from train.__main__ import main as train


def result(folder: Path) -> dict:
    return json.loads((folder / "result.json").read_text())


def test_a_run_leaves_all_that_is_promised(unbroken):
    folder, out, err = unbroken("vqvae")
    plots = {path.name for path in (folder / "plots").iterdir()}
    assert plots == {"curves.png", "reconstructions.png", "codes.png"}
    assert (folder / "summary.md").read_text() in out
    assert "images/s" in err
    found = result(folder)
    assert 0 < found["usage"] <= 1
    assert found["perplexity"] <= 256
    assert np.isfinite(found["mse"]).all()
    logged = rows(folder)
    assert {"vq/usage", "vq/error", "vq/loss/commitment"} <= set(logged[-2])
    assert {"eval/psnr", "eval/usage", "eval/relative_error"} <= set(logged[-1])


def test_a_run_killed_comes_to_the_same_numbers(unbroken, tmp_path, cache):
    whole, _, _ = unbroken("vqvae")
    folder = tmp_path / "runs/vqvae/001"
    process = start(tmp_path, cache, "train", "vqvae", "--size", "tiny")
    moment = random.Random("vqvae").randrange(2, 7)
    assert wait_until(process, lambda: steps_logged(folder) >= moment)
    assert stop(process, signal.SIGKILL) == -signal.SIGKILL
    code, out, err = run(tmp_path, cache, "train", "vqvae", "--resume")
    assert code == 0, err
    assert out == (whole / "summary.md").read_text() + "\n"
    assert rows(folder) == rows(whole)
    assert (folder / "result.json").read_bytes() == (whole / "result.json").read_bytes()
    assert_same_arrays(arrays(folder), arrays(whole))


def test_a_trained_model_encodes_and_decodes(unbroken, monkeypatch):
    folder, _, _ = unbroken("vqvae")
    monkeypatch.chdir(folder.parents[2])
    trained = restore_vqvae(folder)
    variables = {"params": trained.state.params, "codebook": trained.state.extras["codebook"]}
    images, _ = trained.images.validation[0].fixed(4)
    images = trained.images.validation[0].read(images)
    ids = trained.model.apply(variables, images, method="encode")
    whole = trained.model.apply(variables, images)
    assert ids.shape == (4, 8)
    decoded = trained.model.apply(variables, ids, method="decode")
    np.testing.assert_allclose(decoded, whole.images, atol=1e-6)


# Each a codebook, an estimator or a loss of its own, through the whole command.
VARIANTS = [
    "--model.quantizer.kind learned --model.quantizer.codebook.kmeans 3"
    " --model.quantizer.codebook.expire 1 --model.quantizer.levels 2",
    "--model.quantizer.estimator hessian --loss.average 0.9",
    "--model.quantizer.kind gumbel",
    "--model.quantizer.kind fsq --model.quantizer.groups 2",
    "--model.quantizer.kind bsq --model.quantizer.codebook.entropy 0.1",
]


@pytest.mark.slow
@pytest.mark.parametrize("words", VARIANTS, ids=lambda words: words.split()[1])
def test_every_kind_of_codebook_trains(words, call):
    code, out, err = call(train, "vqvae", "--size", "tiny", "--loop.steps", "4", *words.split())
    assert code == 0, err
    assert "usage" in out


@pytest.mark.slow
def test_an_adversary_and_a_vision_transformer(call):
    words = "--data.groups photographs --data.size 32 --loss.adversarial 0.5 --batch-size 4"
    words += " --eval-images 4 --loop.steps 4 --discriminator.width 8 --model.network.kind vit"
    words += " --model.network.vit.d-model 32 --model.network.vit.depth 2"
    words += " --model.network.vit.heads 2 --discriminator.layers 2"
    code, _, err = call(train, "vqvae", "--size", "tiny", *words.split())
    assert code == 0, err
    logged = rows(Path("runs/vqvae/001"))
    weights = [row["vq/adversarial_weight"] for row in logged if "vq/adversarial_weight" in row]
    assert weights
    assert all(weight > 0 for weight in weights)


def test_a_comparison_is_paired_by_seed(unbroken):
    folder, out, _ = unbroken("vqvae_compare")
    assert {path.name for path in (folder / "plots").iterdir()} == {"compare.png", "learning.png"}
    assert (folder / "summary.md").read_text() in out
    ste, rotation = (
        rows(folder / f"digits-ema-{name}") for name in ("straight_through", "rotation")
    )
    # The first step's loss is before any gradient: the same of both, another of each seed.
    assert len(set(ste[0]["loss"])) == 2
    np.testing.assert_allclose(ste[0]["loss"], rotation[0]["loss"], rtol=1e-2)
    assert ste[-1]["eval/usage"] != rotation[-1]["eval/usage"]


@pytest.mark.slow
def test_a_comparison_of_photographs(tmp_path, cache):
    words = ["train", "vqvae_compare", "--size", "tiny", "--only", "photographs-ema-rotation"]
    code, out, err = run(tmp_path, cache, *words)
    assert code == 0, err
    assert "photographs" in out


@pytest.mark.slow
def test_a_comparison_killed_comes_to_the_same_numbers(unbroken, tmp_path, cache):
    whole, _, _ = unbroken("vqvae_compare")
    folder = tmp_path / "runs/vqvae_compare/001"
    process = start(tmp_path, cache, "train", "vqvae_compare", "--size", "tiny")
    second = folder / "digits-ema-rotation"
    log = second / "metrics.jsonl"
    assert wait_until(process, lambda: log.exists() and len(log.read_text().splitlines()) >= 1)
    assert stop(process, signal.SIGKILL) == -signal.SIGKILL
    code, _, err = run(tmp_path, cache, "train", "vqvae_compare", "--resume")
    assert code == 0, err
    assert (folder / "result.json").read_bytes() == (whole / "result.json").read_bytes()
    assert rows(second) == rows(whole / "digits-ema-rotation")


def test_a_dry_run_tells_the_cost_and_writes_nothing(call, tmp_path):
    code, out, err = call(train, "vqvae", "--size", "tiny", "--dry-run")
    assert code == 0, err
    cost = json.loads(out)["cost"]
    assert (cost["images"], cost["tokens_per_image"]) == (8 * 16, 8)
    # 64-128-128-64, and back.
    assert cost["parameters"] == 2 * (65 * 128 + 129 * 128 + 129 * 64)
    assert list(tmp_path.iterdir()) == []


BAD = [
    ("vqvae", "--model.quantizer.kind emma", "--model.quantizer.kind", "'emma'", "ema"),
    ("vqvae", "--model.quantizer.codebook.size 0", "size must be >= 1; got 0"),
    ("vqvae", "--model.quantizer.codebook.decay 1", "decay must be in [0, 1); got 1.0"),
    ("vqvae", "--model.quantizer.kind fsq", "dim / groups must be", "fsq levels, 4; got 8"),
    ("vqvae", "--model.quantizer.groups 3", "dim must be a multiple of groups = 3; got 8"),
    (
        "vqvae",
        "--model.quantizer.kind lfq --model.quantizer.codebook.kmeans 5",
        "codebook.kmeans has no meaning for kind lfq; got 5",
    ),
    (
        "vqvae",
        "--model.quantizer.estimator exact --model.quantizer.levels 2",
        "estimator exact must be of one level and one group; got 2 and 1",
    ),
    ("vqvae", "--mesh.data 3 --data.groups a=/no/such/folder", "mesh"),
    ("vqvae", "--data.groups nothing", "got 'nothing'", 'be "digits" or "photographs"'),
    ("vqvae", "--data.groups a=/no/such/folder", "/no/such/folder"),
    ("vqvae", "--model.network.kind small_conv --data.size 6", "6"),
    ("vqvae", "--loss.perceptual 1", "loss.perceptual_weights must go together"),
    ("vqvae", "--loss.mse 0", "loss.mse, loss.l1 or loss.perceptual must be > 0"),
    ("vqvae", "--loss.average 1", "loss.average must be in [0, 1); got 1.0"),
    ("vqvae", "--batch-size 0", "batch_size must be >= 1; got 0"),
    ("vqvae", "--accumulate 3", "batch_size must be a multiple of accumulate = 3; got 16"),
    ("vqvae_compare", "--only nothing", "only must have words of", "digits-ema-rotation"),
    ("vqvae_compare", "--runs 0", "runs must be >= 1; got 0"),
]


@pytest.mark.parametrize(("preset", "words", "says"), [(p, w, s) for p, w, *s in BAD])
def test_bad_input_ends_in_one_line(preset, words, says, call, compiled, tmp_path):
    before = len(compiled)
    code, out, err = call(train, preset, "--size", "tiny", *words.split())
    assert (code, out) == (2, "")
    assert_one_line(err, list(says))
    assert list(tmp_path.iterdir()) == [], "nothing is written"
    assert len(compiled) == before, "nothing is compiled"


def test_images_of_mixed_size_are_named(call, tmp_path_factory):
    from PIL import Image

    folder = tmp_path_factory.mktemp("pictures")
    for name, size in (("a", (8, 8)), ("b", (8, 9))):
        Image.new("L", size).save(folder / f"{name}.png")
    code, _, err = call(train, "vqvae", "--size", "tiny", "--data.groups", f"mine={folder}")
    assert code == 2
    assert_one_line(err, ["a.png is 8 x 8", "b.png is 9 x 8", "--data.size N"])


@pytest.mark.slow
def test_four_devices_come_to_the_numbers_of_one(tmp_path, cache, monkeypatch):
    words = ["train", "vqvae", "--size", "tiny", "--model.quantizer.codebook.kmeans", "2"]
    words += ["--model.quantizer.codebook.expire", "1"]
    for devices in (1, 4):
        flags = f"--xla_force_host_platform_device_count={devices}"
        monkeypatch.setenv("XLA_FLAGS", flags)
        code, _, err = run(tmp_path, cache, *words, "--name", f"on{devices}")
        assert code == 0, err
    one, four = (result(tmp_path / f"runs/on{devices}/001") for devices in (1, 4))
    assert one["usage"] == four["usage"]
    for name in ("mse", "error", "perplexity"):  # float32 sums in another order
        np.testing.assert_allclose(one[name], four[name], rtol=1e-4)


@pytest.mark.slow
def test_a_second_start_compiles_nothing(unbroken, tmp_path, cache):
    unbroken("vqvae")
    code, _, err = run(tmp_path, cache, "train", "vqvae", "--size", "tiny")
    assert code == 0, err
    summary = json.loads((tmp_path / "runs/vqvae/001/summary.json").read_text())
    assert summary["cache_misses"] == 0


@pytest.mark.parametrize("size", SIZES)
def test_every_size_fits_its_images(size):
    """Shapes only: the large ones are for a pod."""
    config = SIZES[size]
    check_fit(config, load_images(config.data))
