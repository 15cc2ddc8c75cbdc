"""Outputs of the released networks, computed with their own torch code from the same weights.

The convolutions and the adversary: CompVis/taming-transformers; the transformer:
thuanz123/enhancing-transformers. Weights are those of `filled`, images and latents sines.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jlab.vq.discriminator import Discriminator, DiscriminatorConfig
from jlab.vq.networks import ConvConfig, NetworkConfig, ViTConfig, make_decoder, make_encoder
from tests.vq.params import filled

CONV = NetworkConfig("conv", 5, conv=ConvConfig(8, (1, 2, 2), 1, (8,), 6, groups=4))
VIT = NetworkConfig("vit", 5, vit=ViTConfig(patch=4, d_model=16, depth=2, heads=4, d_ff=24))
# First place and last of each output.
RELEASED = {
    "conv": (
        [-0.089102, 0.825674, 0.27637, 1.233192, -1.684499],
        [0.188185, 0.056916, 0.134655, 0.16115, -0.268614],
        [0.01267, 0.162173, 0.281281],
        [0.303736, 0.236515, -0.084251],
    ),
    "vit": (
        [1.184663, -0.260642, 1.079942, 0.09996, -0.908486],
        [1.282201, -0.113637, 0.871424, 0.399001, 0.263033],
        [-0.171066, 0.137567, -0.28503],
        [-0.608906, 0.621892, -0.215435],
    ),
}


def sines(*shape: int) -> jnp.ndarray:
    return jnp.asarray(np.sin(np.arange(np.prod(shape))).reshape(shape).astype(np.float32))


@pytest.mark.parametrize(
    ("config", "shape", "grid"), [(CONV, (16, 16, 3), (4, 4)), (VIT, (16, 24, 3), (4, 6))]
)
def test_encoder_and_decoder_give_what_the_released_ones_give(config, shape, grid):
    outputs = []
    for make, x in ((make_encoder, sines(1, *shape)), (make_decoder, sines(1, *grid, 5))):
        network = make(config, shape)
        out = jax.jit(network.apply)({"params": filled(network, x)}, x)
        outputs += [out[0, 0, 0], out[0, -1, -1]]
    for found, want in zip(outputs, RELEASED[config.kind], strict=True):
        np.testing.assert_allclose(found, want, atol=1e-5)  # float32 sums in another order


def test_the_adversary_judges_as_the_released_one_in_training():
    network, images = Discriminator(DiscriminatorConfig(width=8)), sines(2, 32, 32, 3)
    judged = jax.jit(network.apply)({"params": filled(network, images)}, images)
    want = [
        [[0.198964, -0.39237], [0.429708, -0.547645]],
        [[-0.169001, -0.783778], [-0.203598, -0.813698]],
    ]
    np.testing.assert_allclose(judged, want, atol=1e-5)  # float32 sums in another order
