"""Runs of the loop on the shared bench: made, broken off, and compared bit for bit."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jlab.mixing import Mixer, aioli, schedule, static, stratified
from jlab.training import LoopConfig, LoopState, Run, init_loop_state, train_loop

BAD = [0.8, 0.2]
# Made once: a mixer's functions are compiled once however many runs use it.
MIXERS = {
    "stratified": stratified(),
    "static": static(BAD),
    "schedule": schedule([0, 4, 4, 9], [BAD, [0.1, 0.9], [0.5, 0.5], [0.0, 1.0]]),
    # Rounds of 2 groups x 1 sweep x 2 steps of probes and 2 steps of training: probes end at steps
    # 2, 4, 8, 10; A is learned at 4 and 10; step 13 is in the middle of a probe.
    "aioli": aioli(update_steps=6, sweeps=1, probe_steps=2),
    # No training between the probes of two rounds: the plan there only measures, at steps 4, 8, 12.
    "aioli, probes only": aioli(update_steps=4, sweeps=1, probe_steps=2),
    # Four steps of a prior come first.
    "aioli, prior": aioli(update_steps=6, sweeps=1, probe_steps=2, prior=BAD, prior_steps=4),
}


def play(bench, mixer: Mixer, folder: Path, loop: LoopConfig | None = None, **job) -> LoopState:
    """Run, or go on with, a run in `folder`; fields of the job and of the loop may be replaced."""
    job = dataclasses.replace(bench.job, mixer=mixer, **job)
    loop, run = loop or bench.config.loop, Run(folder)
    state = init_loop_state(bench.fresh(), job.loader, mixer, bench.config.seed)
    return train_loop(loop, job, state, run, run.checkpointer(loop.keep, best="loss"))


def rows(folder: Path) -> list[dict]:
    """Logged lines without what depends on the clock."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "time"} for line in lines]


def killed(unbroken: Path, step: int, folder: Path) -> Path:
    """The folder of a run killed some time after the checkpoint of `step`, while it logged."""
    for name in (f"checkpoints/{step}", "checkpoints/manifests"):
        shutil.copytree(unbroken / name, folder / name)
    text = (unbroken / "metrics.jsonl").read_text()
    (folder / "metrics.jsonl").write_text(text + '{"step": 14, "lo')
    return folder


def assert_same_bits(got: Any, expected: Any) -> None:
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for a, b in zip(*map(jax.tree.leaves, jax.device_get((got, expected))), strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
        assert np.asarray(a).dtype == np.asarray(b).dtype
