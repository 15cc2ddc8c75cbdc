"""Inception v3: names and sizes of the release, folded batch norms, and a narrow one run."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from jlab.vq.inception import (
    InceptionV3,
    fold,
    inception_features,
    load_inception,
    parameter_shapes,
    resized,
)
from jlab.vq.inception_blocks import MIXED
from tests.vq.params import filled

NARROW, CLASSES = 16, 5


def torch_tensors() -> dict[str, np.ndarray]:
    """A narrow network's tensors in torch's layout, batch norms apart from convolutions."""
    rng, tensors = np.random.default_rng(0), {}
    for name, layer in parameter_shapes(CLASSES, NARROW).items():
        *size, inputs, outputs = layer["kernel"]
        weight = rng.normal(0, np.sqrt(2 / (inputs * np.prod(size))), (outputs, inputs, *size))
        if name == "fc":
            tensors |= {"fc.weight": weight, "fc.bias": rng.normal(size=outputs)}
            continue
        tensors[f"{name}.conv.weight"] = weight
        tensors[f"{name}.bn.weight"] = rng.uniform(0.5, 1.5, outputs)
        tensors[f"{name}.bn.bias"] = rng.normal(0, 0.3, outputs)
        tensors[f"{name}.bn.running_mean"] = rng.normal(0, 0.3, outputs)
        tensors[f"{name}.bn.running_var"] = rng.uniform(0.5, 1.5, outputs)
    return {name: tensor.astype(np.float32) for name, tensor in tensors.items()}


@pytest.fixture(scope="module")
def params(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "inception.safetensors"
    counts = {"Conv2d_1a_3x3.bn.num_batches_tracked": np.zeros((), np.int64)}  # never asked for
    save_file(torch_tensors() | counts, path)
    return load_inception(path, classes=CLASSES, narrow=NARROW)


def test_the_layers_are_those_of_the_release():
    """94 convolutions and a classifier; 23 850 960 numbers in torchvision's form, 1008 classes.

    There each of the 17 216 channels has a scale beside the shift that is the bias here.
    """
    shapes = parameter_shapes()
    sizes = {name: sum(map(np.prod, layer.values())) for name, layer in shapes.items()}
    assert len(shapes) == 95
    assert sum(sizes.values()) + 17_216 == 23_850_960
    assert sum(layer["bias"][0] for name, layer in shapes.items() if name != "fc") == 17_216
    assert shapes["Conv2d_1a_3x3"]["kernel"] == (3, 3, 3, 32)
    assert shapes["Mixed_5d.branch5x5_2"]["kernel"] == (5, 5, 48, 64)
    assert shapes["Mixed_6a.branch3x3"]["kernel"] == (3, 3, 288, 384)
    assert shapes["Mixed_6c.branch7x7dbl_2"]["kernel"] == (7, 1, 160, 160)
    assert shapes["Mixed_6e.branch7x7_2"]["kernel"] == (1, 7, 192, 192)
    assert shapes["Mixed_7c.branch3x3dbl_3b"]["kernel"] == (3, 1, 384, 384)
    assert shapes["fc"] == {"kernel": (2048, 1008), "bias": (1008,)}


def test_a_folded_batch_norm_by_hand():
    """One weight 2, scale 3, shift 1, mean 4, variance 0.249: s = 3 / 0.5 = 6."""
    one = lambda x: np.array([x])  # noqa: E731
    layer = fold(np.full((1, 1, 1, 1), 2.0), one(3.0), one(1.0), one(4.0), one(0.249))
    np.testing.assert_allclose(layer["kernel"], [[[[12.0]]]])
    np.testing.assert_allclose(layer["bias"], [1 - 4 * 6])
    # x = 5: 2 * 5 = 10, (10 - 4) * 6 + 1 = 37; and 5 * 12 - 23.
    np.testing.assert_allclose(5 * layer["kernel"] + layer["bias"], [[[[37.0]]]])


def test_average_pooling_leaves_the_border_out_and_only_the_last_block_pools_by_maximum():
    """Every convolution a copy of its input's one channel: what is left of 7b and 7c is pooling."""
    x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    copy = lambda x, name, *_: x if name == "branch_pool" else 0 * x  # noqa: E731
    corner = {name: MIXED[name](copy, x)[-1][0, 0, 0, 0].item() for name in MIXED}
    mean = (0 + 1 + 4 + 5) / 4  # the four in the image, not over nine
    means = ["Mixed_5b", "Mixed_5c", "Mixed_5d", "Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"]
    assert {corner[name] for name in [*means, "Mixed_7b"]} == {mean}
    assert corner["Mixed_7c"] == 5
    assert corner["Mixed_6a"] == corner["Mixed_7a"] == 10  # of the first 3x3


def test_a_narrow_network_sees_each_image_on_its_own(params):
    run = jax.jit(inception_features)
    images = jnp.tanh(jax.random.normal(jax.random.key(0), (2, 32, 40, 3)))
    out, turned = run(params, images), run(params, images[::-1])
    assert out.pool.shape == (2, 2048 // NARROW)
    assert jnp.abs(out.pool[0] - out.pool[1]).max() > 1e-3
    np.testing.assert_allclose(out.pool, turned.pool[::-1], rtol=1e-3, atol=1e-5)
    # The logits are the classifier of the pool, in the file's layout.
    tensors = torch_tensors()
    want = np.asarray(out.pool) @ tensors["fc.weight"].T + tensors["fc.bias"][None]
    np.testing.assert_allclose(out.logits, want, rtol=1e-4, atol=1e-5)


def test_the_resize_halves_by_means_of_four_and_repeats_the_border():
    """Places at half pixels: 598 -> 299 reads between two pixels; 13 -> 299 begins before one."""
    images = jax.random.normal(jax.random.key(0), (1, 598, 598, 1))
    want = images.reshape(1, 299, 2, 299, 2, 1).mean((2, 4))
    np.testing.assert_allclose(resized(images), want, atol=1e-6)
    small = jnp.broadcast_to(jnp.arange(13.0)[None, :, None, None], (1, 13, 13, 1))
    grown = resized(small)[0, :, 0, 0]
    want = np.clip((np.arange(299) + 0.5) * 13 / 299 - 0.5, 0, 12)
    np.testing.assert_allclose(grown, want, atol=1e-5)


def test_the_first_layer_is_convolution_batch_norm_and_relu_as_in_the_file(params):
    tensors, x = torch_tensors(), np.random.default_rng(1).normal(size=(3, 3, 3))
    weight = tensors["Conv2d_1a_3x3.conv.weight"]
    raw = np.einsum("oihw,hwi->o", weight, x)
    scale, shift, mean, var = (
        tensors[f"Conv2d_1a_3x3.bn.{part}"]
        for part in ("weight", "bias", "running_mean", "running_var")
    )
    want = (raw - mean) / np.sqrt(var + 1e-3) * scale + shift
    layer = params["Conv2d_1a_3x3"]
    np.testing.assert_allclose(
        np.einsum("hwio,hwi->o", layer["kernel"], x) + layer["bias"], want, rtol=1e-4, atol=1e-5
    )


def test_images_that_do_not_fit_are_refused(params):
    with pytest.raises(ValueError, match=r"images must be \[batch, .*got \(1, 32, 32, 1\)"):
        inception_features(params, jnp.zeros((1, 32, 32, 1)))
    with pytest.raises(ValueError, match="image height and width must be at least 75; got 74"):
        jax.eval_shape(InceptionV3().init, jax.random.key(0), jnp.zeros((1, 74, 90, 3)))


def test_a_file_that_lacks_a_batch_norm_is_refused_by_its_name(tmp_path):
    path = tmp_path / "inception.safetensors"
    tensors = torch_tensors()
    del tensors["Mixed_6a.branch3x3.bn.running_var"]
    save_file(tensors, path)
    with pytest.raises(ValueError, match=r"no tensor Mixed_6a.branch3x3.bn.running_var$"):
        load_inception(path, classes=CLASSES, narrow=NARROW)


@pytest.mark.slow
def test_the_full_network_gives_2048_features_and_1008_logits():
    image = jax.random.normal(jax.random.key(0), (1, 299, 299, 3))
    params = filled(InceptionV3(), image)
    out = jax.jit(InceptionV3().apply)({"params": params}, image)
    assert out.pool.shape == (1, 2048)
    assert out.logits.shape == (1, 1008)
    assert np.isfinite(out.logits).all()
