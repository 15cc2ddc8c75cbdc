"""A quantiser as a config: what presets and the command line choose from."""

from dataclasses import dataclass, field, fields
from functools import partial
from itertools import product
from typing import Literal, get_args

from jlab.vq.binary import MOST_BITS
from jlab.vq.checks import require, require_not_negative, require_sharpness
from jlab.vq.codebooks import Start, Unused, check_book
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
from jlab.vq.scalar import check_levels

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
LOOKUPS = ("ema", "learned", "simvq")  # kinds that look up the nearest code, through an estimator
# Kinds that read a field of `CodebookConfig`; all but fsq, lfq and bsq read the size.
CODEBOOK_USES: dict[str, tuple[str, ...]] = {
    "cosine": ("ema", "learned"),
    "decay": ("ema", "learned"),
    "counts": ("ema",),
    "unused": ("ema",),
    "expire": ("ema", "learned"),
    "kmeans": ("ema", "learned"),
    "init": ("ema", "learned"),
    "orthogonal": ("learned", "simvq"),
    "entropy": (*LOOKUPS, "lfq", "bsq"),
    "sharpness": (*LOOKUPS, "lfq", "bsq"),
}
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
    unused: Unused = "decay"
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

    def __post_init__(self):
        check_book(self.size, 1, self.init or "normal", self.expire, self.kmeans, self.decay)
        require_not_negative(counts=self.counts, orthogonal=self.orthogonal, entropy=self.entropy)
        require_sharpness(self.sharpness)
        unused = get_args(Unused)
        require(self.unused in unused, "unused", self.unused, f"one of {', '.join(unused)}")


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
        for name, known in (("kind", Kind), ("estimator", EstimatorName)):
            value, allowed = getattr(self, name), get_args(known)
            require(value in allowed, name, value, f"one of {', '.join(allowed)}")
        for name in ("levels", "groups", "beam"):
            require(getattr(self, name) >= 1, name, getattr(self, name), ">= 1")
        require_not_negative(commitment=self.commitment, codebook_weight=self.codebook_weight)
        allowed = self.least_cosine is None or -1 <= self.least_cosine <= 1
        require(allowed, "least_cosine", self.least_cosine, "in [-1, 1]")
        require(0 <= self.keep_least <= self.levels, "keep_least", self.keep_least, "in 0..levels")
        if self.estimator in THROUGH and (self.levels > 1 or self.groups > 1):
            raise ValueError(
                f"estimator {self.estimator} must be of one level and one group; got"
                f" {self.levels} and {self.groups}"
            )
        if self.kind == "fsq":
            check_levels(self.fsq, "fsq")
        self._refuse_unused()

    @property
    def gradient(self) -> str:
        """What the encoder learns, in a word for tables."""
        if self.kind == "gumbel":
            return "Gumbel-softmax"
        return self.estimator if self.kind in LOOKUPS else "straight_through"

    @property
    def place_names(self) -> list[str]:
        """What the places of a token's ids are called: groups, and the levels of each."""
        counts = (("group", self.groups), ("level", self.levels))
        each = [[f"{name} {i}" for i in range(n)] for name, n in counts if n > 1]
        return [", ".join(names) or "codes" for names in product(*each)]

    @property
    def draws(self) -> bool:
        """Whether training draws at random, for which it needs a key."""
        book = self.codebook
        return self.kind == "gumbel" or bool(book.kmeans or book.expire or self.keep_least)

    def _refuse_unused(self) -> None:
        """A setting that does nothing is a mistake, but for `size` and a weight of presets."""
        if self.renormalize and not self.codebook.cosine:
            raise ValueError("renormalize must be False but for a cosine codebook; got True")
        of_kind = [name for name in CODEBOOK_USES if self.kind not in CODEBOOK_USES[name]]
        _refuse(self.codebook, of_kind, f"for kind {self.kind}", "codebook.")
        if not self.codebook.entropy:
            _refuse(self.codebook, ["sharpness"], "without codebook.entropy", "codebook.")
        if self.kind not in LOOKUPS:
            _refuse(self, ["estimator", "least_cosine", "renormalize"], f"for kind {self.kind}")
        if self.kind in ("gumbel", "fsq"):
            _refuse(self, ["commitment"], f"for kind {self.kind}")
        if self.estimator in ("straight_through", *THROUGH):
            _refuse(self, ["least_cosine"], f"with estimator {self.estimator}")
        if self.levels == 1:
            _refuse(self, ["shared_levels", "keep_least", "beam"], "for one level")
        if self.groups == 1:
            _refuse(self, ["shared_groups"], "for one group")


def _refuse(config: object, names: list[str], why: str, prefix: str = "") -> None:
    """Unless each field has its default."""
    plain = {each.name: each.default for each in fields(config)}
    for name in names:
        if (value := getattr(config, name)) != plain[name]:
            raise ValueError(f"{prefix}{name} has no meaning {why}; got {value}")


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
    if config.kind in ("lfq", "bsq"):
        require(inner <= MOST_BITS, "dim / groups", inner, f"1..{MOST_BITS} for {config.kind}")
    return inner
