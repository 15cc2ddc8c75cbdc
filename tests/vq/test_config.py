"""Configs: what is refused, by name, and what is said of the rest; the Linen module."""

import jax
import pytest
from flax.errors import InvalidRngError

from jlab.vq import CodebookConfig, QuantizerConfig, VectorQuantizer
from jlab.vq.config import channels_of

REFUSED = [
    ({"kind": "vq"}, "kind must be one of ema, .*; got 'vq'"),
    ({"estimator": "ste"}, "estimator must be one of rotation, .*; got 'ste'"),
    ({"levels": 0}, "levels must be >= 1; got 0"),
    ({"commitment": -1.0}, "commitment must be >= 0 and finite; got -1"),
    ({"least_cosine": 2.0}, r"least_cosine must be in \[-1, 1\]; got 2"),
    ({"levels": 2, "keep_least": 3}, r"keep_least must be in 0\.\.levels; got 3"),
    ({"kind": "fsq", "fsq": (8, 1)}, r"fsq must be >= 2, one for each channel; got \[8, 1\]"),
    ({"renormalize": True}, "renormalize must be False but for a cosine codebook"),
    ({"kind": "lfq", "estimator": "reflection"}, "estimator has no meaning for kind lfq"),
    ({"kind": "gumbel", "commitment": 3.0}, "commitment has no meaning for kind gumbel; got 3"),
    ({"estimator": "exact", "least_cosine": 0.5}, "least_cosine has no meaning with estimator"),
    ({"beam": 4}, "beam has no meaning for one level; got 4"),
    ({"shared_groups": True}, "shared_groups has no meaning for one group; got True"),
]
REFUSED_BOOKS = [
    ({"size": 0}, "size must be >= 1; got 0"),
    ({"size": 2**31}, r"size must be under 2\^31"),
    ({"expire": float("nan")}, "expire must be >= 0 and finite; got nan"),
    ({"unused": "drop"}, "unused must be one of decay, freeze; got 'drop'"),
    ({"entropy": 0.1, "sharpness": 0.0}, "sharpness must be > 0 and finite; got 0"),
    ({"sharpness": 5.0}, "codebook.sharpness has no meaning without codebook.entropy; got 5"),
    ({"orthogonal": 1.0}, "codebook.orthogonal has no meaning for kind ema; got 1"),
]


@pytest.mark.parametrize(("fields", "message"), REFUSED)
def test_quantizers_that_cannot_be_made(fields, message):
    with pytest.raises(ValueError, match=message):
        QuantizerConfig(**fields)


@pytest.mark.parametrize(("fields", "message"), REFUSED_BOOKS)
def test_codebooks_that_cannot_be_made(fields, message):
    with pytest.raises(ValueError, match=message):
        QuantizerConfig(codebook=CodebookConfig(**fields))


def test_bits_are_the_channels():
    with pytest.raises(ValueError, match=r"dim / groups must be 1\.\.30 for bsq; got 40"):
        channels_of(QuantizerConfig(kind="bsq"), 40)


def test_what_tables_say():
    assert QuantizerConfig(kind="fsq").gradient == "straight_through"
    assert QuantizerConfig(kind="gumbel").gradient == "Gumbel-softmax"
    assert QuantizerConfig(kind="simvq", estimator="diveq").gradient == "diveq"
    assert QuantizerConfig().place_names == ["codes"]
    assert QuantizerConfig(levels=2).place_names == ["level 0", "level 1"]
    named = QuantizerConfig(levels=2, groups=2).place_names
    assert named == [f"group {g}, level {i}" for g in (0, 1) for i in (0, 1)]


def test_the_module_says_which_rng_it_draws_from():
    module, x = VectorQuantizer(QuantizerConfig(kind="gumbel"), dim=3), jax.numpy.ones((2, 3))
    variables = module.init(jax.random.key(0), x)
    with pytest.raises(InvalidRngError, match="quantizer"):
        module.apply(variables, x, train=True, mutable=["codebook"])
    draw = {"quantizer": jax.random.key(1)}
    module.apply(variables, x, train=True, rngs=draw, mutable=["codebook"])
