"""The adversary: its shapes, its losses by hand, and the weight of what it says."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jlab.vq.discriminator import (
    BatchNorm,
    Discriminator,
    DiscriminatorConfig,
    adaptive_weight,
    generator_loss,
    hinge_loss,
    non_saturating_loss,
    vanilla_loss,
)
from tests.vq.params import filled

TINY = DiscriminatorConfig(width=2)
REAL = jnp.array([[[2.0, 0.0]]])
FAKE = jnp.array([[[-2.0, 1.0]]])


@functools.cache
def adversary():
    """Network, parameters and two images."""
    network = Discriminator(TINY)
    images = jnp.tanh(jax.random.normal(jax.random.key(0), (2, 32, 40, 3)))
    return network, {"params": filled(network, images)}, images


def test_three_layers_judge_an_eighth_less_two_patches_a_side():
    network, variables, images = adversary()
    assert jax.eval_shape(network.apply, variables, images).shape == (2, 32 // 8 - 2, 40 // 8 - 2)


def test_it_keeps_no_running_statistics_and_has_the_parameters_of_pix2pix():
    """2765633 with 64 channels and three layers, as counted in the released code."""
    made = jax.eval_shape(
        Discriminator(DiscriminatorConfig()).init, jax.random.key(0), jnp.zeros((1, 32, 32, 3))
    )
    assert set(made) == {"params"}
    # 4x4: 3 -> 64 with bias, 64 -> 128 -> 256 -> 512 without, 512 -> 1 with; norms 2 * 896.
    by_hand = 16 * (3 * 64 + 64 * 128 + 128 * 256 + 256 * 512 + 512) + 64 + 1 + 2 * 896
    assert sum(leaf.size for leaf in jax.tree.leaves(made)) == by_hand == 2_765_633


def test_every_parameter_gets_a_gradient_and_jit_equals_eager():
    network, variables, images = adversary()

    def loss(variables):
        return hinge_loss(network.apply(variables, images), network.apply(variables, -images))

    value, gradients = jax.jit(jax.value_and_grad(loss))(variables)
    np.testing.assert_allclose(value, loss(variables), rtol=1e-5)  # sums in another order
    assert all(jnp.abs(g).max() > 0 for g in jax.tree.leaves(gradients))


def test_bfloat16_judges_in_float32_and_near_float32():
    _, variables, images = adversary()
    network = Discriminator(DiscriminatorConfig(width=2, dtype="bfloat16"))
    judged = jax.jit(network.apply)(variables, images)
    assert judged.dtype == jnp.float32
    # Five layers, each rounding to 8 bits.
    wide = jax.jit(adversary()[0].apply)(variables, images)
    np.testing.assert_allclose(judged, wide, atol=0.05)


def test_the_norm_standardises_each_channel_over_images_and_places():
    x = 3 + 5 * jax.random.normal(jax.random.key(0), (4, 6, 6, 2))
    variables = {"params": {"scale": jnp.array([1.0, 2.0]), "bias": jnp.array([0.0, 7.0])}}
    y = BatchNorm().apply(variables, x)
    np.testing.assert_allclose(y.mean((0, 1, 2)), [0, 7], atol=1e-5)
    np.testing.assert_allclose(y.std((0, 1, 2)), [1, 2], rtol=1e-5)


def test_weights_start_as_those_of_pix2pix():
    """Deviation 0.02 about 0, and about 1 in the norms; the biases of convolutions as torch's."""
    config = DiscriminatorConfig(width=32, layers=1)
    params = jax.jit(Discriminator(config).init)(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))[
        "params"
    ]
    kernel, scale = params["conv_1"]["kernel"], params["norm_1"]["scale"]
    assert 0.019 < kernel.std() < 0.021
    assert abs(kernel.mean()) < 0.001
    assert 0.01 < jnp.abs(scale - 1).max() < 0.1
    assert set(params["conv_1"]) == {"kernel"}  # the norm after it has the shift
    bound = (4 * 4 * 3) ** -0.5
    assert 0.7 * bound < jnp.abs(params["conv_0"]["bias"]).max() <= bound


def test_losses_by_hand():
    # relu(1 - real) = 0, 1; relu(1 + fake) = 0, 2.
    np.testing.assert_allclose(hinge_loss(REAL, FAKE), (0.5 + 1) / 2)
    np.testing.assert_allclose(generator_loss(FAKE), 0.5)
    zero = jnp.zeros((1, 2, 2))
    np.testing.assert_allclose(vanilla_loss(zero, zero), np.log(2), rtol=1e-6)
    np.testing.assert_allclose(non_saturating_loss(zero), np.log(2), rtol=1e-6)
    # log(1 + e^-2), log 2; log(1 + e^-2), log(1 + e).
    want = (np.log1p(np.exp(-2)) + np.log(2) + np.log1p(np.exp(-2)) + np.log1p(np.e)) / 4
    np.testing.assert_allclose(vanilla_loss(REAL, FAKE), want, rtol=1e-6)


@pytest.mark.parametrize("loss", [hinge_loss, vanilla_loss])
def test_the_adversary_wants_real_up_and_reconstructions_down_and_the_decoder_the_reverse(loss):
    up, down = jax.grad(loss, argnums=(0, 1))(REAL / 4, FAKE / 4)
    assert (up < 0).all()
    assert (down > 0).all()
    for decoder in (generator_loss, non_saturating_loss):
        assert (jax.grad(decoder)(FAKE) < 0).all()


def test_the_adaptive_weight_by_hand():
    """Norms 5 and 2.4999: a ratio of 2, times the weight."""
    reconstruction = jnp.array([[3.0, 0.0], [0.0, 4.0]])
    adversarial = jnp.array([[2.4999, 0.0]])
    np.testing.assert_allclose(adaptive_weight(reconstruction, adversarial, 0.75), 1.5, rtol=1e-6)
    # No say at all: the ratio is cut off, and no division by zero.
    np.testing.assert_allclose(adaptive_weight(reconstruction, 0 * adversarial), 1e4)
    np.testing.assert_allclose(adaptive_weight(0 * reconstruction, adversarial), 0)


def test_the_adaptive_weight_passes_no_gradient():
    gradient = jax.grad(lambda g: adaptive_weight(g, jnp.ones(3)))(jnp.arange(3.0))
    np.testing.assert_array_equal(gradient, 0)


def test_small_images_and_odd_configs_are_refused_by_name():
    with pytest.raises(
        ValueError, match=r"at least 24 for discriminator.layers = 3; got \(23, 32\)"
    ):
        Discriminator(TINY).init(jax.random.key(0), jnp.zeros((1, 23, 32, 3)))
    least, _ = jax.eval_shape(
        Discriminator(TINY).init_with_output, jax.random.key(0), jnp.zeros((1, 24, 24, 3))
    )
    assert least.shape == (1, 1, 1)
    with pytest.raises(ValueError, match=r"discriminator\.layers must be positive; got 0"):
        DiscriminatorConfig(layers=0)
    with pytest.raises(ValueError, match=r"discriminator\.dtype must be float32 or bfloat16"):
        DiscriminatorConfig(dtype="int8")
