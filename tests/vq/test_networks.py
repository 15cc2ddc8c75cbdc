"""Encoders and decoders: shapes, sizes by hand, gradients, and what is refused."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax.traverse_util import flatten_dict

from jlab.vq.layers import attend, conv, conv_transpose, linear
from jlab.vq.networks import (
    ConvConfig,
    MLPConfig,
    NetworkConfig,
    SmallConvConfig,
    ViTConfig,
    grid_of,
    make_decoder,
    make_encoder,
)
from jlab.vq.vit import Layers, sincos_positions
from tests.vq.params import filled

TINY = NetworkConfig(
    dim=2,
    mlp=MLPConfig(hidden=(3,), tokens=2),
    small_conv=SmallConvConfig(width=4, groups=2),
    conv=ConvConfig(4, (1, 2), blocks=1, attention=(4,), z_channels=3, groups=2),
    vit=ViTConfig(patch=4, d_model=8, depth=2, heads=2, d_ff=16),
)
SHAPES = {"mlp": (2, 2, 1), "small_conv": (8, 12, 3), "conv": (8, 8, 3), "vit": (8, 12, 3)}
GRIDS = {"mlp": (2,), "small_conv": (2, 3), "conv": (4, 4), "vit": (2, 3)}
KINDS = sorted(SHAPES)


def tiny(kind: str, dtype: str = "float32") -> NetworkConfig:
    fields = {name: getattr(TINY, name) for name in ("dim", *KINDS)}
    return NetworkConfig(kind=kind, dtype=dtype, **fields)


@functools.cache
def halves(kind: str, dtype: str = "float32"):
    """Encoder, decoder, parameters of both, and two images."""
    config, shape = tiny(kind, dtype), SHAPES[kind]
    encoder, decoder = make_encoder(config, shape), make_decoder(config, shape)
    images = jnp.tanh(jax.random.normal(jax.random.key(0), (2, *shape)))
    latents = jnp.zeros((2, *grid_of(config, shape), config.dim))
    params = filled(encoder, images), filled(decoder, latents, seed=1)
    return encoder, decoder, params, images


def through(kind: str, params, images, dtype: str = "float32"):
    """Latents and reconstructions."""
    encoder, decoder, *_ = halves(kind, dtype)
    latents = encoder.apply({"params": params[0]}, images)
    return latents, decoder.apply({"params": params[1]}, latents)


def loss(params, kind: str, images):
    """Distance to noise, and what `through` gives."""
    out = through(kind, params, images)
    target = jax.random.normal(jax.random.key(3), images.shape)
    return ((out[1] - target) ** 2).mean(), out


# One program per kind: ((loss, (latents, reconstructions)), gradients).
compiled = jax.jit(jax.value_and_grad(loss, has_aux=True), static_argnums=1)


def count(params) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize("kind", KINDS)
def test_latents_lie_on_the_grid_and_images_come_back_in_their_shape(kind):
    _, _, params, images = halves(kind)
    latents, back = compiled(params, kind, images)[0][1]
    assert grid_of(tiny(kind), SHAPES[kind]) == GRIDS[kind]
    assert latents.shape == (2, *GRIDS[kind], 2)
    assert back.shape == images.shape
    # Each image on its own.
    turned = compiled(params, kind, images[::-1])[0][1][1]
    np.testing.assert_allclose(turned[::-1], back, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_gets_a_gradient_and_jit_equals_eager(kind):
    _, _, params, images = halves(kind)
    (value, _), gradients = compiled(params, kind, images)
    # Sums in another order.
    np.testing.assert_allclose(value, loss(params, kind, images)[0], rtol=1e-5)
    for name, gradient in flatten_dict({"encoder": gradients[0], "decoder": gradients[1]}).items():
        assert np.isfinite(gradient).all(), name
        assert np.abs(gradient).max() > 0 or name[-2:] == ("k", "bias"), name


def test_the_bias_of_keys_is_the_one_parameter_that_does_nothing():
    """It adds the same number to all scores of a query, which softmax does not see."""
    _, _, (of_encoder, of_decoder), images = halves("conv")
    moved = jax.tree.map(lambda leaf: leaf, of_encoder)
    moved["middle"]["attention"]["k"]["bias"] = 1 + moved["middle"]["attention"]["k"]["bias"]
    before, after = (
        compiled((p, of_decoder), "conv", images)[0][1][0] for p in (of_encoder, moved)
    )
    np.testing.assert_allclose(before, after, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_stays_bfloat16_and_parameters_float32(kind):
    _, _, params, images = halves(kind, "bfloat16")
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    latents, out = jax.jit(through, static_argnums=(0, 3))(kind, params, images, "bfloat16")
    wide = compiled(params, kind, images)[0][1][1]
    assert latents.dtype == out.dtype == jnp.bfloat16
    assert np.isfinite(np.asarray(out, np.float32)).all()
    # A handful of layers, each rounding to 8 bits.
    np.testing.assert_allclose(np.asarray(out, np.float32), wide, atol=0.05 * np.abs(wide).max())


@pytest.mark.parametrize(
    ("kind", "sizes"),
    {
        # 4*3+3 + 3*4+4, both ways.
        "mlp": (31, 31),
        # 4x4: 196 and 260; block 16 + 2*148; norm 8; 1x1 10 | 1x1 12, block, norm, 260, 195.
        "small_conv": (786, 787),
        # in 112; level 0 312; down 148; level 1 944 + 304; middle 2*1200 + 304; norm 16; 219; 8
        # | 9; 224; middle; level 1 2*(1200 + 304); up 584; level 0 500 + 312; norm 8; 111.
        "conv": (4767, 7460),
        # patches 392; 2*(32 + 192 + 72 + 144 + 136); norm 16; out 18 | in 24, layers, 384 + 3.
        "vit": (1578, 1579),
    }.items(),
)
def test_parameters_counted_by_hand(kind, sizes):
    assert tuple(map(count, halves(kind)[2])) == sizes


def test_the_16_fold_vqgan_has_the_released_number_of_parameters():
    """29 298 176 and 42 449 795 in taming-transformers, and 256 * 256 + 256 of a linear map."""
    config, shape = NetworkConfig("conv", 256), (256, 256, 3)
    grid = (16, 16)
    images, latents = (jax.ShapeDtypeStruct((1, *s), jnp.float32) for s in (shape, (*grid, 256)))
    assert grid_of(config, shape) == grid
    for make, x, released in (
        (make_encoder, images, 29_298_176),
        (make_decoder, latents, 42_449_795),
    ):
        made = jax.eval_shape(make(config, shape).init, jax.random.key(0), x)
        assert count(made) == released + 65_792


def test_without_z_channels_the_convolutions_meet_the_latents():
    config = NetworkConfig("conv", 2, conv=ConvConfig(4, (1, 2), 1, (), None, 2))
    image, latent = jnp.zeros((1, 8, 8, 3)), jnp.zeros((1, 4, 4, 2))
    made = jax.eval_shape(make_encoder(config, (8, 8, 3)).init, jax.random.key(0), image)
    assert made["params"]["out"]["kernel"].shape == (3, 3, 8, 2)
    made = jax.eval_shape(make_decoder(config, (8, 8, 3)).init, jax.random.key(0), latent)
    assert made["params"]["in"]["kernel"].shape == (3, 3, 2, 8)


@pytest.mark.parametrize("kind", KINDS)
def test_the_last_layer_of_a_decoder_is_named_out(kind):
    """A zero kernel there leaves the bias alone, whatever the latents."""
    _, decoder, (_, params), _ = halves(kind)
    silent = {**params, "out": {**params["out"], "kernel": 0 * params["out"]["kernel"]}}
    latents = jax.random.normal(jax.random.key(5), (2, *GRIDS[kind], 2))
    images = jax.jit(decoder.apply)({"params": silent}, latents)
    np.testing.assert_array_equal(images[0], images[1])


def test_a_decoders_gradient_has_a_forward_derivative():
    """The Hessian estimator takes one; along z it is near the difference of two gradients."""
    _, decoder, (_, params), _ = halves("vit")
    latents, along = (
        jax.random.normal(key, (1, *GRIDS["vit"], 2)) for key in jax.random.split(jax.random.key(4))
    )
    gradient = jax.jit(jax.grad(lambda z: (decoder.apply({"params": params}, z) ** 2).sum()))
    _, pushed = jax.jvp(gradient, (latents,), (along,))
    step = 1e-2
    apart = (gradient(latents + step * along) - gradient(latents - step * along)) / (2 * step)
    np.testing.assert_allclose(pushed, apart, atol=2e-2 * np.abs(apart).max())


class Lone(nn.Module):
    """One layer on its own."""

    layer: object

    @nn.compact
    def __call__(self, x):
        return self.layer(x)


@pytest.mark.parametrize(
    ("layer", "fan_in"),
    [
        (lambda x: linear(x, 64, "layer"), 4),
        (lambda x: conv(x, 16, 3, "layer"), 9 * 4),
        (lambda x: conv_transpose(x, 8, "layer"), 16 * 8),  # torch counts the results' channels
    ],
    ids=["linear", "conv", "conv_transpose"],
)
def test_weights_and_biases_fill_the_interval_of_torch(layer, fan_in):
    params = Lone(layer).init(jax.random.key(0), jnp.zeros((1, 4, 4, 4)))["params"]["layer"]
    for leaf in params.values():
        assert 0.7 < jnp.abs(leaf).max() * fan_in**0.5 <= 1
        assert leaf.min() < 0 < leaf.max()


def ones_through(layer, size: int) -> np.ndarray:
    """What a layer of ones without a bias makes of a square of ones."""
    images = jnp.ones((1, size, size, 1))
    params = Lone(layer).init(jax.random.key(0), images)["params"]["layer"]
    ones = {"kernel": jnp.ones_like(params["kernel"]), "bias": jnp.zeros_like(params["bias"])}
    return Lone(layer).apply({"params": {"layer": ones}}, images)[0, :, :, 0]


def test_strides_and_borders_by_hand():
    """Each number is how many ones a window sees; rows and columns alike."""
    # 4x4, stride 2, border 1: the outer windows lose a row.
    square = ones_through(lambda x: conv(x, 1, 4, "layer", stride=2, padding=1), 6)
    np.testing.assert_array_equal(square, np.outer([3, 4, 3], [3, 4, 3]))
    # 3x3, stride 2, zeros after the end only: the last window loses a row.
    square = ones_through(lambda x: conv(x, 1, 3, "layer", stride=2, padding=(0, 1)), 4)
    np.testing.assert_array_equal(square, np.outer([3, 2], [3, 2]))
    # Transposed: output o hears input i where 0 <= o + 1 - 2 i <= 3; at the ends that is one.
    square = ones_through(lambda x: conv_transpose(x, 1, "layer"), 3)
    np.testing.assert_array_equal(square, np.outer([1, 2, 2, 2, 2, 1], [1, 2, 2, 2, 2, 1]))


def test_queries_of_zero_read_the_mean_and_loud_ones_one_value():
    k, v = jax.random.normal(jax.random.key(0), (2, 1, 5, 2, 4))
    np.testing.assert_allclose(attend(0 * k, k, v)[0, 3], v[0].mean(0), atol=1e-6)
    loud = attend(1e4 * k, k, v)  # each query is a key, and longer than all others are along it
    nearest = jnp.einsum("lhd,shd->lhs", k[0], k[0]).argmax(-1)
    np.testing.assert_allclose(loud[0, 2, 1], v[0, nearest[2, 1], 1], atol=1e-5)


def test_positions_by_hand():
    """d_model 8: rates 1 and 1/100; columns first, sines before cosines."""
    places = sincos_positions(2, 3, 8)
    assert places.shape == (6, 8)
    row, column = 1, 2
    angles = np.array([column, column / 100, row, row / 100])
    want = np.stack([np.sin(angles), np.cos(angles)]).reshape(2, 2, 2).swapaxes(0, 1).ravel()
    np.testing.assert_allclose(places[row * 3 + column], want, rtol=1e-6)


def test_the_layers_of_a_transformer_are_one_scan_and_start_apart():
    def start(key):
        return Layers(TINY.vit).init(key, jnp.zeros((1, 2, 2, 8)))["params"]["blocks"]["qkv"]

    kernel = jax.jit(start)(jax.random.key(0))["kernel"]
    assert kernel.shape == (2, 8, 24)
    assert jnp.abs(kernel[0] - kernel[1]).max() > 0.1


@pytest.mark.parametrize(
    ("kind", "shape", "message"),
    [
        ("small_conv", (30, 32, 3), r"must be multiples of 4 \(.*twice\); got \(30, 32\)"),
        (
            "conv",
            (8, 9, 3),
            r"must be multiples of 2 \(network.conv.multipliers .*\); got \(8, 9\)",
        ),
        ("vit", (8, 10, 3), r"must be multiples of 4 \(network.vit.patch is 4\); got \(8, 10\)"),
        ("mlp", (0, 8, 1), r"image shape must be positive; got \(0, 8, 1\)"),
        ("vit", (8, 8), r"image shape must be \(height, width, channels\); got \(8, 8\)"),
    ],
)
def test_a_size_that_does_not_fit_is_refused_before_anything_is_made(kind, shape, message):
    for make in (make_encoder, make_decoder, grid_of):
        with pytest.raises(ValueError, match=message):
            make(tiny(kind), shape)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: NetworkConfig(kind="rnn"),
            "network.kind must be one of mlp, small_conv, conv, vit",
        ),
        (lambda: NetworkConfig(dim=0), "network.dim must be positive; got 0"),
        (lambda: NetworkConfig(dtype="float16"), "network.dtype must be one of float32, bfloat16"),
        (lambda: MLPConfig(hidden=(8, 0)), r"network.mlp.hidden must be positive; got \(8, 0\)"),
        (lambda: SmallConvConfig(30), "network.small_conv.groups must be a divisor of width = 30"),
        (
            lambda: ConvConfig(channels=48),
            r"network.conv.groups must be a divisor of each .*\[48, ",
        ),
        (lambda: ConvConfig(multipliers=()), "network.conv.multipliers must be not empty"),
        (lambda: ConvConfig(z_channels=0), "network.conv.z_channels must be positive, or None"),
        (lambda: ViTConfig(d_model=10), "network.vit.d_model must be a multiple of 4; got 10"),
        (lambda: ViTConfig(heads=3), "network.vit.heads must be a divisor of d_model = 512; got 3"),
    ],
)
def test_a_config_that_cannot_be_is_refused_by_name(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("kind", KINDS)
def test_an_input_of_another_shape_is_refused(kind):
    encoder, decoder, (of_encoder, of_decoder), _ = halves(kind)
    with pytest.raises(ValueError, match=r"input must have shape \[batch, .*got \(1, 16, 16, 3\)"):
        encoder.apply({"params": of_encoder}, jnp.zeros((1, 16, 16, 3)))
    with pytest.raises(ValueError, match=r"input must have shape \[batch, .*got \(1, 7, 2\)"):
        decoder.apply({"params": of_decoder}, jnp.zeros((1, 7, 2)))
