"""A quantiser as a config: what presets and the command line choose from."""

from dataclasses import dataclass, field
from functools import partial
from typing import Literal, get_args

from jlab.vq.codebooks import Start
from jlab.vq.estimators import (
    Estimator,
    diveq,
    inverse_length,
    no_scale,
    reflection_trick,
    rotation_tangent,
    rotation_trick,
    straight_through,
)

ESTIMATORS: dict[str, Estimator] = {
    "rotation": rotation_trick,
    "straight_through": straight_through,
    "rotation_no_scale": partial(rotation_trick, scale=no_scale),
    "rotation_tangent": rotation_tangent,
    "rotation_tangent_no_scale": partial(rotation_tangent, scale=inverse_length),
    "reflection": reflection_trick,
    "diveq": diveq,
}
# Of these the decoder makes the encoder's gradient (`loss_through`); the value is the code.
THROUGH = ("hessian", "exact")
Kind = Literal["ema", "learned", "simvq", "gumbel", "fsq", "lfq", "bsq"]
EstimatorName = Literal[
    "rotation",
    "straight_through",
    "rotation_no_scale",
    "rotation_tangent",
    "rotation_tangent_no_scale",
    "reflection",
    "diveq",
    "hessian",
    "exact",
]


@dataclass(frozen=True)
class CodebookConfig:
    """How the codes of one codebook are compared, start and follow the tokens."""

    size: int = 1024
    """Number of codes K."""
    cosine: bool = False
    """Compare tokens and codes at unit length."""
    decay: float = 0.8
    """Of the running sums (ema) and counts."""
    counts: float = 1.0
    """ema: running count of every code at the start (the paper's release: 0)."""
    unused: Literal["decay", "freeze"] = "decay"
    """ema: what becomes of codes without tokens; decay: their rows go to zero, as released."""
    expire: float = 0.0
    """Codes whose running count is below it become random tokens of the batch (0: none does)."""
    kmeans: int = 0
    """Iterations of k-means on the first batch that set the codes (0: random codes)."""
    init: Start | None = None
    """Codes before any data (None: kaiming for ema, uniform for learned)."""
    orthogonal: float = 0.0
    """learned, simvq: weight of the loss that makes codes orthogonal."""
    entropy: float = 0.0
    """Weight of the loss for sure choices of all codes, in nats; lfq and bsq: 0.1 is usual."""
    sharpness: float = 100.0
    """Of the choices in that loss (inverse temperature)."""


@dataclass(frozen=True)
class QuantizerConfig:
    """A quantiser; what its kind has no use for must be left as it is."""

    kind: Kind = "ema"
    """Codes that are running means, trained codes, trained through one matrix; codes chosen by
    logits; rounded channels; signs of channels (bsq: on the sphere)."""
    estimator: EstimatorName = "rotation"
    """What the encoder learns through the lookup."""
    least_cosine: float | None = None
    """Straight through where cos(e, q) is below it (None: nowhere)."""
    commitment: float = 1.0
    """Weight beta of the loss that moves tokens to codes."""
    codebook_weight: float = 1.0
    """learned, simvq: weight of the loss that moves codes to tokens."""
    renormalize: bool = False
    """With a cosine codebook: normalise the result once more, as the paper's release does."""
    codebook: CodebookConfig = field(default_factory=CodebookConfig)
    fsq: tuple[int, ...] = (8, 5, 5, 5)
    """fsq: levels of each channel."""
    levels: int = 1
    """Levels of residual quantisation."""
    shared_levels: bool = False
    """One codebook for all levels."""
    keep_least: int = 0
    """Above 0, each step trains with a random number of levels, from this to all."""
    beam: int = 1
    """Sums of codes that the choice of levels follows at a time."""
    groups: int = 1
    """Groups of channels (heads) with codes of their own."""
    shared_groups: bool = False
    """One codebook for all groups."""

    def __post_init__(self):
        if self.kind not in get_args(Kind):
            raise ValueError(f"kind must be one of {', '.join(get_args(Kind))}; got {self.kind!r}")
        if self.estimator not in (*ESTIMATORS, *THROUGH):
            known = ", ".join((*ESTIMATORS, *THROUGH))
            raise ValueError(f"estimator must be one of {known}; got {self.estimator!r}")
        if self.levels < 1 or self.groups < 1:
            raise ValueError(f"levels and groups must be >= 1; got {self.levels} and {self.groups}")
        if self.estimator in THROUGH and (self.levels > 1 or self.groups > 1):
            raise ValueError(
                f"estimator {self.estimator} must be of one level and one group; got"
                f" {self.levels} and {self.groups}"
            )
        self._refuse_unused()

    def _refuse_unused(self) -> None:
        """A setting that does nothing is a mistake, but for those that presets give."""
        plain, book, unset = QuantizerConfig.__dataclass_fields__, self.codebook, CodebookConfig()
        uses = {
            "ema": ("cosine", "decay", "counts", "unused", "expire", "kmeans", "init"),
            "learned": ("cosine", "decay", "expire", "kmeans", "init", "orthogonal"),
            "simvq": ("orthogonal",),
        }.get(self.kind, ())
        if self.kind in ("ema", "learned", "simvq", "lfq", "bsq"):
            uses += ("entropy", "sharpness")
        for name in CodebookConfig.__dataclass_fields__:
            if name not in (*uses, "size") and getattr(book, name) != getattr(unset, name):
                raise ValueError(
                    f"codebook.{name} has no meaning for kind {self.kind}; got"
                    f" {getattr(book, name)}"
                )
        if self.kind not in ("ema", "learned", "simvq"):
            for name in ("estimator", "least_cosine", "renormalize"):
                if getattr(self, name) != plain[name].default:
                    raise ValueError(
                        f"{name} has no meaning for kind {self.kind}; got {getattr(self, name)}"
                    )


def channels_of(config: QuantizerConfig, dim: int) -> int:
    """Channels of one group of a quantiser for `dim` channels.

    Raises:
      ValueError: they do not divide, or are not those that the kind needs.
    """
    if dim % config.groups:
        raise ValueError(f"dim must be a multiple of groups = {config.groups}; got {dim}")
    inner = dim // config.groups
    if config.kind == "fsq" and inner != len(config.fsq):
        raise ValueError(
            f"dim / groups must be the number of fsq levels, {len(config.fsq)}; got {inner}"
        )
    return inner
