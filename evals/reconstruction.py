"""How well VQ-VAEs reconstruct and use their codes: `python -m evals reconstruction RUN`.

RUN is a folder of `python -m train vqvae`, or one seed in it; every VQ-VAE below it is measured:
errors of pixels and of latents with bootstrap intervals over images, codes counted over the set and
as the paper counts them, and, where weights of those networks are given, the Frechet distance, the
inception score and LPIPS. Beside them stand two pictures of what the rotation trick does to points
in the plane, with their numbers.

Every image's numbers are kept in a store as they are measured, under the content that decides them:
what was stopped goes on with the image where it was, and a second call measures nothing.
"""

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from evals.stored import Stop, measure_and_write
from jlab.cli import UsageError
from jlab.data import ImageConfig
from jlab.training.config import check_least

if TYPE_CHECKING:
    from evals.reconstruction_inputs import Inputs
    from evals.reconstruction_measure import Measured
    from jlab.jobs.results import Store
    from jlab.training.run import Run

SUBJECT = "run"


@dataclass(frozen=True)
class Config:
    """What to measure, and on which images."""

    run: str = ""
    """Folder of a run of train vqvae, of a seed in it, or of many runs."""
    split: Literal["train", "validation"] = "validation"
    """Part of the images."""
    images: int | None = None
    """Images per group at most, spread evenly over it; of photographs the number of crops (None:
    every image once; 1024 crops)."""
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
    if not config.run:
        raise UsageError("reconstruction needs a run folder: python -m evals reconstruction RUN")
    return measure_and_write(
        "reconstruction", config, partial(_read, config), partial(_write, config)
    )


def _read(config: Config):
    from evals.reconstruction_inputs import read_inputs
    from evals.reconstruction_measure import measure

    inputs = read_inputs(config)

    def measured(store: "Store", stop: Stop) -> "tuple[Inputs, list[Measured]]":
        return inputs, [measure(config, inputs, one, store, stop) for one in inputs.subjects]

    return inputs.fingerprints, measured


def _write(
    config: Config, out: "Run", measured: "tuple[Inputs, list[Measured]]"
) -> tuple[dict[str, Any], str]:
    from evals.reconstruction_landscape import landscape
    from evals.reconstruction_page import page
    from evals.reconstruction_plots import plots
    from evals.reconstruction_scores import summary_of

    inputs, found = measured
    for one in found:
        plots(out if len(found) == 1 else out.child(one.subject.label), config, inputs, one)
    summary = {**summary_of(config, found), **landscape(out)}
    return summary, page(config.run, summary)
