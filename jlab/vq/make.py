"""From a config to its quantiser."""

from collections.abc import Callable
from functools import lru_cache

from jlab.vq.binary import lfq
from jlab.vq.codebooks import Codebook, ema
from jlab.vq.compose import grouped
from jlab.vq.config import ESTIMATORS, QuantizerConfig, channels_of
from jlab.vq.estimators import angle_gated, straight_through
from jlab.vq.gumbel import gumbel
from jlab.vq.learned import learned, simvq
from jlab.vq.quantizer import Quantizer
from jlab.vq.residual import residual
from jlab.vq.scalar import fsq
from jlab.vq.vector import vector_quantizer


@lru_cache(maxsize=64)
def make_quantizer(config: QuantizerConfig, dim: int) -> Quantizer:
    """The quantiser of a config for `dim` channels; the same object for equal configs.

    Raises:
      ValueError: a value out of its range, by name.
    """
    inner = channels_of(config, dim)
    quantizer, shrink = _MAKERS[config.kind](config, inner)
    if config.levels > 1:
        quantizer = residual(
            quantizer,
            config.levels,
            shared=config.shared_levels,
            keep_least=config.keep_least,
            beam=config.beam,
            shrink=shrink,
        )
    if config.groups > 1:
        quantizer = grouped(quantizer, config.groups, shared=config.shared_groups)
    return quantizer


def _vector(config: QuantizerConfig, dim: int, book: Codebook) -> tuple[Quantizer, float]:
    estimator = ESTIMATORS.get(config.estimator, straight_through)
    if config.least_cosine is not None:
        estimator = angle_gated(estimator, config.least_cosine)
    settings = config.codebook
    quantizer = vector_quantizer(
        book,
        estimator,
        commitment=config.commitment,
        codebook_weight=config.codebook_weight,
        orthogonal=settings.orthogonal,
        entropy=settings.entropy,
        sharpness=settings.sharpness,
        renormalize=config.renormalize,
    )
    return quantizer, 1.0


def _ema(config: QuantizerConfig, dim: int) -> tuple[Quantizer, float]:
    book = config.codebook
    made = ema(
        book.size,
        dim,
        decay=book.decay,
        counts=book.counts,
        cosine=book.cosine,
        unused=book.unused,
        expire=book.expire,
        kmeans=book.kmeans,
        init=book.init or "kaiming",
    )
    return _vector(config, dim, made)


def _learned(config: QuantizerConfig, dim: int) -> tuple[Quantizer, float]:
    book = config.codebook
    made = learned(
        book.size,
        dim,
        cosine=book.cosine,
        decay=book.decay,
        expire=book.expire,
        kmeans=book.kmeans,
        init=book.init or "uniform",
    )
    return _vector(config, dim, made)


def _simvq(config: QuantizerConfig, dim: int) -> tuple[Quantizer, float]:
    return _vector(config, dim, simvq(config.codebook.size, dim))


def _gumbel(config: QuantizerConfig, dim: int) -> tuple[Quantizer, float]:
    return gumbel(config.codebook.size, dim), 1.0


def _fsq(config: QuantizerConfig, dim: int) -> tuple[Quantizer, tuple[float, ...]]:
    return fsq(config.fsq, symmetric=2 in config.fsq), tuple(1 / (x - 1) for x in config.fsq)


def _lfq(config: QuantizerConfig, dim: int) -> tuple[Quantizer, float]:
    book = config.codebook
    made = lfq(
        dim,
        spherical=config.kind == "bsq",
        entropy=book.entropy,
        sharpness=book.sharpness,
        commitment=config.commitment,
    )
    return made, 0.5


_MAKERS: dict[str, Callable[[QuantizerConfig, int], tuple[Quantizer, float | tuple]]] = {
    "ema": _ema,
    "learned": _learned,
    "simvq": _simvq,
    "gumbel": _gumbel,
    "fsq": _fsq,
    "lfq": _lfq,
    "bsq": _lfq,
}
