"""What is compared: settings of two experiments, each a list of changes of a base config.

Two small reproductions of the paper's direction (digits: Table 1's Euclidean EMA codes; crops of
photographs: Table 3's trained codes), the settings in which rotation does not help, and what else
raises the usage of codes: k-means, expiry, slow averages.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

from jlab.vq.config import CodebookConfig
from jlab.vq.training_config import ImageModelConfig

Change = Callable[[ImageModelConfig], ImageModelConfig]


class Arm(NamedTuple):
    """One row of the table."""

    experiment: str  # "digits" or "photographs": a field of the recipe's config
    setting: str  # arms of one setting differ in their estimator or its helpers
    label: str
    changes: tuple[Change, ...]

    @property
    def name(self) -> str:
        """Its folder."""
        return f"{self.experiment}-{self.setting}-{self.label}".replace(" ", "_")

    def config(self, base: ImageModelConfig) -> ImageModelConfig:
        """The run's config."""
        for change in self.changes:
            base = change(base)
        return base


BASELINE = "straight_through"


def quantizer(**fields: Any) -> Change:
    """Sets fields of the quantiser."""

    def change(config: ImageModelConfig) -> ImageModelConfig:
        model = config.model
        return replace(config, model=replace(model, quantizer=replace(model.quantizer, **fields)))

    return change


def codebook(**fields: Any) -> Change:
    """Sets fields of the codebook."""

    def change(config: ImageModelConfig) -> ImageModelConfig:
        book = config.model.quantizer.codebook
        return quantizer(codebook=replace(book, **fields))(config)

    return change


def steps(times: float) -> Change:
    """So many times the steps, scored as often as before."""

    def change(config: ImageModelConfig) -> ImageModelConfig:
        loop = config.loop
        return replace(config, loop=replace(loop, steps=max(1, round(loop.steps * times))))

    return change


def channels(dim: int) -> Change:
    """Sets the length of a code."""

    def change(config: ImageModelConfig) -> ImageModelConfig:
        model = config.model
        return replace(config, model=replace(model, network=replace(model.network, dim=dim)))

    return change


def learned(config: ImageModelConfig) -> ImageModelConfig:
    """Trained codes with VQGAN's weights, where the codebook was of running means."""
    size = config.model.quantizer.codebook.size
    return quantizer(kind="learned", codebook_weight=0.25, codebook=CodebookConfig(size=size))(
        config
    )


def running_means(config: ImageModelConfig) -> ImageModelConfig:
    """Codes that are running means, where they were trained."""
    size = config.model.quantizer.codebook.size
    return quantizer(kind="ema", codebook=CodebookConfig(size=size))(config)


ESTIMATORS = (
    "straight_through",
    "rotation",
    "rotation_no_scale",
    "rotation_tangent",
    "reflection",
    "hessian",
    "exact",
)
_KMEANS, _EXPIRE, _SLOW = codebook(kmeans=10), codebook(expire=2.0), codebook(decay=0.99)
_HELPS = {
    "k-means": (_KMEANS,),
    "expiry": (_EXPIRE,),
    "decay .99": (_SLOW,),
    "all three": (_KMEANS, _EXPIRE, _SLOW),
}


def _arms() -> tuple[Arm, ...]:
    found = [
        Arm("digits", "ema", estimator, (quantizer(estimator=estimator),))
        for estimator in ESTIMATORS
    ]
    ste, rotation = quantizer(estimator="straight_through"), quantizer(estimator="rotation")
    for label, helps in _HELPS.items():
        found.append(Arm("digits", "ema", f"straight_through + {label}", (ste, *helps)))
    found.append(Arm("digits", "ema", "rotation + all three", (rotation, *_HELPS["all three"])))
    for setting, changes in (
        ("learned", (learned, steps(1500 / 800))),
        ("cosine", (codebook(cosine=True),)),
    ):
        found.append(Arm("digits", setting, "straight_through", (*changes, ste)))
        found.append(Arm("digits", setting, "rotation", (*changes, rotation)))
    found.append(Arm("photographs", "learned", "straight_through", (ste,)))
    found.append(Arm("photographs", "learned", "rotation", (rotation,)))
    helped = (ste, _KMEANS, _EXPIRE)
    found.append(Arm("photographs", "learned", "straight_through + k-means + expiry", helped))
    means = (running_means, channels(32), steps(300 / 400))
    found.append(Arm("photographs", "ema", "straight_through", (*means, ste)))
    found.append(Arm("photographs", "ema", "rotation", (*means, rotation)))
    return tuple(found)


ARMS = _arms()
