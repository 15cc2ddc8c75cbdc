"""How well VQ-VAEs reconstruct and use their codes: `python -m evals reconstruction RUN`.

RUN is a folder of `python -m train vqvae`, or one seed in it; every VQ-VAE below it is measured:
errors of pixels and of latents with bootstrap intervals over images, codes counted over the set and
as the paper counts them, and, where weights of those networks are given, the Frechet distance, the
inception score and LPIPS. Beside them stand two pictures of what the rotation trick does to points
in the plane, with their numbers.

Every image's numbers are kept in a store as they are measured, under the content that decides them:
what was stopped goes on with the image where it was, and a second call measures nothing.
"""

import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from evals.finished import folder_of
from jlab.cli import UsageError, claim_number
from jlab.data import ImageConfig
from jlab.training.config import check_least

if TYPE_CHECKING:
    from evals.reconstruction_inputs import Inputs
    from evals.reconstruction_measure import Measured

SUBJECT = "run"
RUNS = Path("runs/reconstruction")


@dataclass(frozen=True)
class Config:
    """What to measure, and on which images."""

    run: str = ""
    """Folder of a run of train vqvae, or of a seed in it."""
    split: Literal["train", "validation"] = "validation"
    """Part of the images."""
    images: int | None = None
    """Images per group at most, spread evenly over it; of photographs the number of crops (None:
    every image once)."""
    data: ImageConfig = field(default_factory=ImageConfig)
    """The images, of the shape that the model was trained on. Left as it is, those of its run."""
    batch: int = 64
    """Images at work at a time."""
    features: str = ""
    """safetensors file of InceptionV3 for the Frechet distance and the inception score (see
    jlab.hub.vision); empty: they are not measured."""
    perceptual: str = ""
    """safetensors file of VGG16 and LPIPS (see jlab.hub.vision); empty: it is not measured."""
    shown: int = 12
    """Images in the picture of reconstructions."""
    samples: int = 1000
    """Bootstrap samples of images behind the 95 % intervals."""
    seed: int = 0
    """Seed of the bootstrap."""
    out: str = ""
    """Folder of the results (default: the next number below runs/reconstruction)."""

    def __post_init__(self):
        check_least(self, {**dict.fromkeys(("batch", "shown", "samples"), 1), "seed": 0})
        if self.images is not None:
            check_least(self, {"images": 1})


def run(config: Config) -> int:
    """Measure what is not measured yet, print the tables, and write them with the plots."""
    from evals.reconstruction_inputs import read_inputs
    from jlab.training.devices import use_compilation_cache
    from jlab.training.signals import Interrupted, stop_on_signal

    if not config.run:
        raise UsageError("reconstruction needs a run folder: python -m evals reconstruction RUN")
    folder = folder_of(config.out, "reconstruction")
    use_compilation_cache()
    try:
        with stop_on_signal() as stop:
            inputs = read_inputs(config)
            found = _measure(config, inputs, (folder or RUNS) / "measured", stop)
    except Interrupted as stopped:
        command = shlex.join(["python", "-m", "evals", *sys.argv[1:]])
        print(f"{stopped}; go on with: {command}", file=sys.stderr, flush=True)
        return 0
    out = folder or RUNS / f"{claim_number(RUNS):03d}"
    _write(config, out, inputs, found)
    return 0


def _measure(
    config: Config, inputs: "Inputs", folder: Path, stop: Callable[[], bool]
) -> "list[Measured]":
    from evals.reconstruction_measure import measure
    from jlab.jobs import open_store

    with open_store(folder, {"evaluation": "reconstruction"}) as store:
        return [measure(config, inputs, subject, store, stop) for subject in inputs.subjects]


def _write(config: Config, folder: Path, inputs: "Inputs", found: "list[Measured]") -> None:
    from evals.reconstruction_landscape import landscape
    from evals.reconstruction_page import page
    from evals.reconstruction_plots import plots
    from evals.reconstruction_scores import summary_of
    from jlab.training.config import to_dict
    from jlab.training.devices import environment
    from jlab.training.run import Run

    out = Run(folder, "reconstruction")
    with out.locked():
        record = {"evaluation": "reconstruction", "config": to_dict(config)}
        data = inputs.fingerprints
        out.write_config({**record, "fingerprints": data, "environment": environment()})
        for one in found:
            alone = len(found) == 1
            plots(out if alone else out.child(one.subject.label), config, inputs, one)
        summary = {**summary_of(config, found), **landscape(out)}
        text = page(config.run, summary)
        out.write_summary(summary, text)
    print(text, end="")
    out.say(f"results in {out.path}")
