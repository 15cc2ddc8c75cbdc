"""Wrong input is refused in one line that names it."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jlab.vq import (
    Axes,
    ema,
    fixed,
    fsq,
    grouped,
    gumbel,
    kmeans,
    learned,
    lfq,
    projected,
    quantize_and_learn,
    random_projection,
    residual,
    rotation_trick,
    simvq,
    vector_quantizer,
)

book = partial(ema, 4, 2)
quantizer = vector_quantizer(ema(4, 2))
REFUSED = {
    "size must be >= 1; got 0": lambda: ema(0, 2),
    "dim must be >= 1; got 0": lambda: learned(4, 0),
    "size must be >= 1; got -1": lambda: simvq(-1, 2),
    "dim must be >= 1; got -2": lambda: fixed(4, -2),
    "kmeans must be >= 0; got -1": lambda: book(kmeans=-1),
    r"decay must be in \[0, 1\); got 1": lambda: book(decay=1),
    "expire must be >= 0 and finite; got -1": lambda: book(expire=-1),
    "init must be one of kaiming, uniform, normal; got 'zero'": lambda: book(init="zero"),
    "unused must be decay or freeze; got 'drop'": lambda: book(unused="drop"),
    "eps must be >= 0 and finite; got -2": lambda: book(eps=-2),
    "counts must be >= 0 and finite; got inf": lambda: book(counts=float("inf")),
    "floor must be >= 0 and finite; got -1": lambda: book(floor=-1),
    "commitment must be >= 0 and finite; got -1": lambda: vector_quantizer(book(), commitment=-1),
    "orthogonal must be 0 for a codebook that no gradient moves; got 1": lambda: vector_quantizer(
        book(), orthogonal=1
    ),
    "renormalize must be False but for a cosine codebook": lambda: vector_quantizer(
        book(), renormalize=True
    ),
    "orthogonal and entropy must be 0 where codes are split": lambda: vector_quantizer(
        book(), entropy=1, axes=Axes(codes="codes")
    ),
    "groups must be >= 1; got 0": lambda: grouped(quantizer, 0),
    "channels must be >= 1; got 0": lambda: projected(quantizer, 0),
    "channels must be >= 1; got -1": lambda: random_projection(-1, 4),
    "levels must be >= 1; got 0": lambda: residual(quantizer, 0),
    r"keep_least must be in 0\.\.2; got 3": lambda: residual(quantizer, 2, keep_least=3),
    "beam must be >= 1; got 0": lambda: residual(quantizer, 2, beam=0),
    "shared and beam > 1 must be of a quantiser with one id per token": lambda: residual(
        grouped(quantizer, 2), 2, beam=2
    ),
    r"levels must be >= 2, one for each channel; got \[3, 1\]": lambda: fsq([3, 1]),
    r"levels must be of a product under 2\^31": lambda: fsq([2**16, 2**16]),
    r"bits must be in 1\.\.30; got 31": lambda: lfq(31),
    "entropy must be 0 above 20 bits": lambda: lfq(21),
    "sharpness must be > 0 and finite; got -1": lambda: lfq(3, sharpness=-1),
    "diversity must be >= 0 and finite; got nan": lambda: lfq(3, diversity=float("nan")),
    "sharpness must be > 0 and finite; got nan": lambda: vector_quantizer(
        book(), entropy=0.1, sharpness=float("nan")
    ),
    "size must be under 2\\^31": lambda: ema(2**31, 2),
    "shrink must be > 0; got 0.0": lambda: residual(quantizer, 2, shrink=0.0),
    "eps must be >= 0 and finite; got -1": lambda: fsq([3], eps=-1),
    "max_scale must be > 0; got -1": lambda: rotation_trick(X, X, max_scale=-1),
    "uniform must be >= 0 and finite; got nan": lambda: gumbel(4, 2, uniform=float("nan")),
    "temperature must be > 0": lambda: gumbel(4, 2, temperature=(1.0, 0.0)),
    "iterations must be >= 1; got 0": lambda: kmeans(jnp.ones((3, 2)), jnp.ones((1, 2)), 0),
}


@pytest.mark.parametrize("message", REFUSED)
def test_settings(message):
    with pytest.raises(ValueError, match=message):
        REFUSED[message]()


STARTED = quantizer.init(jax.random.key(0))
X = jnp.ones((2, 3, 2))


@pytest.mark.parametrize(
    ("x", "mask", "message"),
    [
        (X[..., :1], None, r"x must have 2 channels on its last axis; got shape \(2, 3, 1\)"),
        (X.astype(int), None, "x must be of a floating type; got int32"),
        (X, np.ones((3,), bool), r"mask must be of type bool and shape \(2, 3\).*got bool \(3,\)"),
        (X, np.ones((2, 3)), r"mask must be of type bool.*got float"),
    ],
)
def test_tokens_and_masks(x, mask, message):
    with pytest.raises(ValueError, match=message):
        quantizer.quantize(*STARTED, x, mask)


@pytest.mark.parametrize("made", [residual(quantizer, 2), grouped(quantizer, 1)])
def test_masks_and_ids_of_compositions(made):
    started = made.init(jax.random.key(0))
    with pytest.raises(ValueError, match="mask must be of type bool"):
        made.quantize(*started, X, np.ones((2, 3)))
    with pytest.raises(ValueError, match=r"ids must be of shape \(2, 3, .\) for this x; got"):
        made.quantize(*started, X, ids=np.zeros((2, 3, 5), int))


@pytest.mark.parametrize("made", [grouped(quantizer, 2), projected(quantizer, 4)])
def test_channels_of_compositions(made):
    params, state = made.init(jax.random.key(0))
    with pytest.raises(ValueError, match=r"x must have .* channels on its last axis"):
        made.quantize(params, state, X)


def test_a_missing_key_is_named():
    for made in (
        vector_quantizer(book(kmeans=1)),
        vector_quantizer(book(expire=1.0)),
        residual(quantizer, 2, keep_least=1),
        gumbel(4, 2),
    ):
        with pytest.raises(ValueError, match="key must be given"):
            quantize_and_learn(made, *made.init(jax.random.key(0)), X)


@pytest.mark.parametrize("made", [quantizer, fsq([2, 2], symmetric=True), lfq(2)])
def test_ids_out_of_range_are_refused_and_under_jit_nan(made):
    params, state = made.init(jax.random.key(0))
    for wrong in (4, -2):
        with pytest.raises(ValueError, match=rf"ids must be in 0\.\.3, or -1.*got {wrong}"):
            made.decode(params, state, jnp.array([0, wrong]))
    codes = jax.jit(made.decode)(params, state, jnp.array([3, -1, 4, -2]))
    assert np.isfinite(codes[0]).all()
    assert not codes[1].any(), "-1 is a code of zeros"
    assert np.isnan(codes[2:]).all()
    with pytest.raises(ValueError, match="ids must be integers; got float32"):
        made.decode(params, state, jnp.array([0.0]))


@pytest.mark.parametrize("size", [(1, 2), (3, 1)])
def test_one_code_and_one_channel_work(size):
    made = vector_quantizer(ema(*size))
    params, state = made.init(jax.random.key(0))
    found, _ = jax.jit(partial(quantize_and_learn, made))(params, state, jnp.ones((5, size[1])))
    np.testing.assert_array_equal(found.out, made.decode(params, state, found.ids))
