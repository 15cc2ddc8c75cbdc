"""The rotation trick beside the estimators and codebooks that it competes with.

"Restructuring Vector Quantization with the Rotation Trick" (Fifty, Junkins et al., ICLR 2025, arXiv
2410.06424), Tables 1, 3 and 6 in direction: `python -m train vqvae_compare`. Two auto-encoders
small enough for two cores, five seeds of each setting, which share initial values and the order of
images, so that differences are paired. The table has the settings in which rotation does not help,
too.
"""

from dataclasses import dataclass, field, replace
from typing import Any

from jlab.data import Images, load_images
from jlab.data.groups import Progress
from jlab.training.config import check_least
from jlab.training.mesh import MeshConfig
from jlab.training.run import Run
from jlab.training.signals import Interrupted, stop_on_signal
from jlab.vq.estimate import estimate_cost
from jlab.vq.seeds import train_seeds
from jlab.vq.training import check_fit
from jlab.vq.training_config import ImageModelConfig
from train.vqvae_arms import ARMS, Arm
from train.vqvae_report import plots, text


@dataclass(frozen=True)
class Config:
    """Two experiments, and which of their settings are trained."""

    digits: ImageModelConfig = field(default_factory=ImageModelConfig)
    """The perceptron on digits; codes are running means."""
    photographs: ImageModelConfig = field(default_factory=ImageModelConfig)
    """The small convolutional network on crops of photographs; codes are trained."""
    only: tuple[str, ...] = ()
    """Words: train the settings whose name has one of them (none: all)."""
    runs: int = 5
    """Seeds of each setting, from `seed` on."""
    mesh: MeshConfig = field(default_factory=MeshConfig)
    seed: int = 0
    """The first seed."""

    def __post_init__(self):
        check_least(self, {"runs": 1, "seed": 0})
        if not self.arms():
            known = ", ".join(arm.name for arm in ARMS)
            raise ValueError(f"only must have words of {known}; got {' '.join(self.only)}")

    def arms(self) -> list[Arm]:
        """The settings to be trained."""
        return [arm for arm in ARMS if not self.only or any(word in arm.name for word in self.only)]


def prepare(config: Config, tell: Progress) -> dict[str, Images]:
    """Read the images of each experiment, and refuse what does not fit them."""
    found = {}
    for arm in config.arms():
        base = getattr(config, arm.experiment)
        if arm.experiment not in found:
            found[arm.experiment] = load_images(base.data, tell)
        check_fit(_of(config, arm), found[arm.experiment])
    return found


def cost(config: Config, images: dict[str, Images]) -> dict[str, Any]:
    """What the training takes, for `--dry-run`: evaluations and compilation come on top."""
    arms = config.arms()
    costs = {name: estimate_cost(getattr(config, name), found) for name, found in images.items()}
    steps = {
        name: sum(_of(config, arm).loop.steps for arm in arms if arm.experiment == name)
        for name in costs
    }
    seconds = sum(steps[name] * costs[name]["step_seconds"] for name in costs) * config.runs
    return {
        "settings": len(arms),
        "runs": len(arms) * config.runs,
        "train_seconds": seconds,
        **costs,
    }


def run(config: Config, images: dict[str, Images], out: Run, resume_command: str) -> dict[str, Any]:
    """Train the settings one after the other, all seeds of one together."""
    seeds, found = range(config.seed, config.seed + config.runs), {}
    for arm in config.arms():
        part = out.child(arm.name)
        result = part.result()
        if result is None:
            with stop_on_signal() as stop:
                if stop():
                    raise Interrupted(f"stopped before {arm.name}")
            scores = train_seeds(_of(config, arm), images[arm.experiment], seeds, part)
            result = {
                "mse": [one.loss.mean() for one in scores],
                **{name: [one.values[name] for one in scores] for name in scores[0].values},
            }
            part.write_result(result)
        found[arm.name] = result
        out.write_json("so_far.json", found)  # for the table of a run that is stopped
    return found


def report(config: Config, parts: dict[int, Run], out: Run) -> str:
    """The table, what it says of the paper's claims, and the plots."""
    found = _found(out)
    if not found:
        return "Stopped before a setting was trained.\n"
    plots(out, config, found)
    return text(config, found)


def _of(config: Config, arm: Arm) -> ImageModelConfig:
    return replace(arm.config(getattr(config, arm.experiment)), mesh=config.mesh)


def _found(out: Run) -> dict[str, dict]:
    import json

    path = out.path / "so_far.json"
    return json.loads(path.read_text()) if path.exists() else {}
