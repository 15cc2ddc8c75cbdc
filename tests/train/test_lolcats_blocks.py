"""Attention transfer block by block: the maps of all layers at once, whatever breaks off."""

import functools
import os
import re
import signal
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from jlab.data import MixtureLoader, pack
from jlab.linearize import TransferLoss, linearize, split_maps, transfer_step
from jlab.mixing import static
from jlab.nn import FeatureMapConfig, LayerConfig, TransferConfig, TransformerConfig
from jlab.training import Interrupted, LoopConfig, OptimConfig, Run, make_mesh
from jlab.training.language import GroupLosses
from jlab.training.partial import Stage, StageConfig, train_part
from jlab.training.residuals import Residuals
from tests.nn.models import random_params
from tests.training.runs import assert_same_bits, rows
from train.lolcats_blocks import Cut, stream_bytes, transfer_by_block

LAYER = LayerConfig(heads=2, kv_heads=1, head_dim=8, d_ff=16)
BASE = TransformerConfig(vocab_size=20, d_model=16, pattern=(LAYER,), repeats=3)
MAPS = FeatureMapConfig(features=3)
LENGTH, STEPS, ROWS = 16, 4, 4
# The smaller group is through once in 4 steps of 4 windows: some windows are drawn twice.
PACKED = tuple(
    pack(np.random.default_rng(n).integers(0, 20, (n, 11)), length=LENGTH) for n in (9, 30)
)
OPTIMIZERS = {
    "sgd": OptimConfig("sgd", 0.1, 0.01, warmup_steps=0, clip_norm=0.0),
    "adam": OptimConfig("adamw", 1e-2, 1e-3, warmup_steps=0, clip_norm=0.0),
}
MSE, FREE = TransferLoss(mse_factor=1.0), TransferLoss(mse_factor=1.0, scale_free=True)
XENT = TransferLoss(mse_factor=1.0, xent_factor=0.1)


@pytest.fixture(scope="module", autouse=True)
def _compiled_once(tmp_path_factory):
    """Each run compiles its step anew; the program of one that was compiled is read from disk."""
    options = {
        "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("programs")),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: getattr(jax.config, name) for name in options}
    for values in (options, before):
        for name, value in values.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()
        if values is options:
            yield


@functools.cache
def linearized(softmax_layers=(), kind="hybrid_sliding"):
    window = 3 if kind.startswith("hybrid") else None
    settings = {"window": window, "feature_map": MAPS, "softmax_layers": softmax_layers}
    config, _ = linearize(BASE, random_params(BASE), kind, **settings)
    return config, random_params(config)


def evaluated(trained):
    return GroupLosses(*np.ones((3, 2)))


def stage_of(config, loss, optimizer="adam"):
    loop = LoopConfig(steps=STEPS, log_every=1, eval_every=0, checkpoint_every=1)
    return Stage(
        config=StageConfig(optimizer=OPTIMIZERS[optimizer], loop=loop, batch_size=ROWS),
        loss_of=transfer_step(config, 2, loss),
        loader=MixtureLoader(PACKED, ROWS, seed=1),
        mixer=static([0.5, 0.5]),
        names=("a", "b"),
        mesh=make_mesh(),
        evaluate=evaluated,
        flops_per_token=1.0,
        seed=1,
    )


def by_block(folder, layers, given, loss=MSE, optimizer="adam"):
    config, params = given
    taught = replace(config, transfer=TransferConfig(weights=loss.xent_factor != 0))
    cut = Cut(taught, params, layers)
    return transfer_by_block(cut, loss, stage_of(config, loss, optimizer), Run(folder), "--resume")


# Optimiser, layers per block, loss, layers that stay softmax, kind of the others.
CASES = [
    ("adam", 1, MSE, (), "hybrid_sliding"),
    ("adam", 2, MSE, (2,), "linear"),
    ("sgd", 2, FREE, (), "linear"),
    pytest.param("adam", 3, MSE, (), "hybrid_terrace", marks=pytest.mark.slow),
    pytest.param("sgd", 1, MSE, (), "hybrid_sliding", marks=pytest.mark.slow),
    pytest.param("adam", 1, FREE, (0, 1), "hybrid_sliding", marks=pytest.mark.slow),
    pytest.param("adam", 2, XENT, (), "hybrid_terrace", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("optimizer", "layers", "loss", "kept", "kind"), CASES)
def test_maps_come_out_as_of_all_layers_at_once(tmp_path, optimizer, layers, loss, kept, kind):
    """Same steps on the same windows; blocks of softmax layers alone pass on what enters them."""
    given = linearized(kept, kind)
    found = by_block(tmp_path / "blocks", layers, given, loss, optimizer)
    maps, frozen = split_maps(given[1])
    stage, start = stage_of(given[0], loss, optimizer), {"maps": maps}
    expected = train_part(stage, start, frozen, Run(tmp_path / "joint"), "")["maps"]
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b, c in zip(*map(jax.tree.leaves, (found, expected, maps)), strict=True):
        moved = float(jnp.abs(b - c).max())
        assert moved > 1e-3
        # Gradients agree to float32 rounding; Adam divides by their size, small ones included.
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-3 * moved)
    assert not list((tmp_path / "blocks" / "streams").iterdir())


class Broken(Exception):
    """Stands for a kill."""


def broken_at(monkeypatch, owner, method, call, after=True, by=None):
    """Break off just before or after a call of a method, the how-manieth is given, from 1."""
    original, seen = getattr(owner, method), []

    def counted(self, *arguments):
        seen.append(self)
        if len(seen) == call and not after:
            raise Broken
        result = original(self, *arguments)
        if len(seen) == call:
            if by is None:
                raise Broken
            os.kill(os.getpid(), by)
        return result

    monkeypatch.setattr(owner, method, counted)


def logged(folder):
    """What each block has logged, the clock aside."""
    return {part.name: rows(part) for part in sorted(folder.glob("block-*"))}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """Folder, maps, and what lay on disk whenever part of a stream was written or a step logged."""
    folder, there = tmp_path_factory.mktemp("unbroken"), []
    with pytest.MonkeyPatch.context() as patch:
        for owner, method in ((Residuals, "_tell"), (Run, "log")):
            original = getattr(owner, method)

            def noted(self, *arguments, original=original):
                held = {path.name for path in (folder / "streams").glob("*.bin")}
                there.append(held | mapped(folder))
                return original(self, *arguments)

            patch.setattr(owner, method, noted)
        maps = by_block(folder, 1, linearized(kind="linear"))
    return folder, maps, there


def mapped(folder):
    """Streams that take up disk because they are mapped, whether a folder names them or not."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return {re.search(r"block-\d+\.bin", line)[0] for line in lines if f"{folder}/streams" in line}


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc")
def test_at_most_two_streams_are_on_disk_and_in_the_end_none(unbroken):
    folder, _, there = unbroken
    assert set(map(len, there)) == {1, 2}
    assert {name for held in there for name in held} == {f"block-0{n}.bin" for n in range(3)}
    assert not list((folder / "streams").iterdir())
    assert not mapped(folder)


def test_the_disk_that_a_stream_takes_is_told_beforehand(tmp_path):
    config, _ = given = linearized(kind="linear")
    sizes = []

    def tell(self, done, original=Residuals._tell):
        sizes.append(self.path.stat().st_size)
        original(self, done)
        raise Broken

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Residuals, "_tell", tell)
        with pytest.raises(Broken):
            by_block(tmp_path, 1, given)
    assert sizes == [stream_bytes(stage_of(config, MSE), config)]


# A stream holds 8 windows of the larger group and all 6 of the smaller, in 4 parts of 4 or 2; a block
# logs its plan and 4 steps.
BREAKS = {
    "in the first stream, a part written but not told": (Residuals, "_tell", 2, False),
    "in the stream that leaves the first block": (Residuals, "_tell", 6, True),
    "before the first block is marked as done": (Run, "write_result", 1, False),
    "before the stream that entered it is removed": (Run, "write_result", 1, True),
    "after it is removed": (Residuals, "remove", 1, True),
    "in the training of the second block": (Run, "log", 9, False),
    "before the last stream is removed": (Run, "write_result", 3, True),
    "by a signal in the first stream": (Residuals, "_tell", 1, True, signal.SIGTERM),
    "by a signal in the training of the second block": (Run, "log", 8, True, signal.SIGTERM),
}


RARE = {"before the last stream is removed", "in the first stream, a part written but not told"}


@pytest.mark.parametrize(
    "where",
    [
        pytest.param(where, id=name, marks=[pytest.mark.slow] if name in RARE else [])
        for name, where in BREAKS.items()
    ],
)
def test_a_run_that_broke_off_ends_bit_equal_to_the_unbroken_one(tmp_path, unbroken, where):
    folder, expected, _ = unbroken
    given = linearized(kind="linear")
    with pytest.MonkeyPatch.context() as patch:
        broken_at(patch, *where)
        with pytest.raises((Broken, Interrupted)):
            by_block(tmp_path, 1, given)
    assert_same_bits(by_block(tmp_path, 1, given), expected)
    assert logged(tmp_path) == logged(folder)
    assert not list((tmp_path / "streams").iterdir())


@pytest.mark.parametrize("lost", ["block-01.bin", "block-01.json"])
@pytest.mark.parametrize("left", [None, 3])
def test_a_stream_in_the_middle_that_is_lost_is_named(tmp_path, lost, left):
    """What it was made of is gone: nothing can bring it back."""
    given = linearized(kind="linear")
    with pytest.MonkeyPatch.context() as patch:
        broken_at(patch, Residuals, "remove", 1)
        with pytest.raises(Broken):
            by_block(tmp_path, 1, given)
    path = tmp_path / "streams" / lost
    if left is None:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(ValueError, match=r"block-01.bin is damaged or gone.*: start a new run"):
        by_block(tmp_path, 1, given)


@pytest.mark.parametrize("layers", [1, 2])
def test_blocks_that_cut_the_pattern_are_refused(tmp_path, layers):
    config, params = linearized()
    pattern = config.pattern * 3
    config = replace(config, pattern=pattern, repeats=2)
    params = params | {"blocks": {str(i): params["blocks"]["0"] for i in range(3)}}
    with pytest.raises(ValueError, match=r"layers must be cut between repeats of the pattern of 3"):
        by_block(tmp_path, layers, (config, params))
