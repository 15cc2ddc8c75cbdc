"""LPIPS with a tiny VGG16: against its definition, as a distance, and from a file."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from jlab.vq.perceptual import LPIPS, load_lpips, lpips

WIDTHS = (2, 3, 2, 3, 4)
CONVOLUTIONS = {
    0: 0,
    2: 0,
    5: 1,
    7: 1,
    10: 2,
    12: 2,
    14: 2,
    17: 3,
    19: 3,
    21: 3,
    24: 4,
    26: 4,
    28: 4,
}


@functools.cache
def torch_tensors() -> dict[str, np.ndarray]:
    """A file's tensors, in torch's layout."""
    rng, tensors, last = np.random.default_rng(0), {}, 3
    for number, level in CONVOLUTIONS.items():
        shape = (WIDTHS[level], last, 3, 3)
        tensors[f"features.{number}.weight"] = rng.normal(0, 0.5, shape).astype(np.float32)
        tensors[f"features.{number}.bias"] = rng.normal(0.2, 0.1, shape[0]).astype(np.float32)
        last = WIDTHS[level]
    for i, width in enumerate(WIDTHS):
        tensors[f"lin{i}.model.1.weight"] = rng.random((1, width, 1, 1)).astype(np.float32)
    return tensors


@pytest.fixture(scope="module")
def params(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "lpips.safetensors"
    # A classifier that is there and not asked for; a type that is widened.
    more = {"classifier.0.weight": np.ones((2, 2), np.float32)}
    more["lin0.model.1.weight"] = torch_tensors()["lin0.model.1.weight"].astype(np.float16)
    save_file(torch_tensors() | more, path)
    return load_lpips(path, WIDTHS)


def pair(seed: int, size=(20, 16)):
    return jnp.tanh(jax.random.normal(jax.random.key(seed), (2, 3, *size, 3)))


def by_definition(images: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The distance in float64, image by image as [c, h, w], read off the paper."""
    tensors = {name: value.astype(np.float64) for name, value in torch_tensors().items()}

    def taps(image):
        shift, scale = np.array([-0.030, -0.088, -0.188]), np.array([0.458, 0.448, 0.450])
        x, level, found = ((image - shift) / scale).transpose(2, 0, 1), 0, []
        for number, at in CONVOLUTIONS.items():
            if at != level:
                found.append(x)
                level, (c, h, w) = at, x.shape
                x = x[:, : h // 2 * 2, : w // 2 * 2].reshape(c, h // 2, 2, w // 2, 2).max((2, 4))
            weight, (_, h, w) = tensors[f"features.{number}.weight"], x.shape
            padded = np.pad(x, ((0, 0), (1, 1), (1, 1)))
            parts = [
                np.einsum("oc,chw->ohw", weight[:, :, i, j], padded[:, i : i + h, j : j + w])
                for i in range(3)
                for j in range(3)
            ]
            x = np.maximum(sum(parts) + tensors[f"features.{number}.bias"][:, None, None], 0)
        return [*found, x]

    def distance(image, other):
        total = 0.0
        for i, (x, y) in enumerate(zip(taps(image), taps(other), strict=True)):
            x, y = (z / (np.sqrt((z**2).sum(0, keepdims=True)) + 1e-10) for z in (x, y))
            head = tensors[f"lin{i}.model.1.weight"][0]
            total += (head * (x - y) ** 2).sum(0).mean()
        return total

    return np.array([distance(x, y) for x, y in zip(images, others, strict=True)])


def test_it_is_what_the_definition_says(params):
    images, others = pair(0)
    want = by_definition(np.asarray(images, np.float64), np.asarray(others, np.float64))
    assert (want > 1e-3).all()
    # float32 through thirteen convolutions; half precision in the first head's file.
    np.testing.assert_allclose(jax.jit(lpips)(params, images, others), want, rtol=1e-3)


def test_it_is_symmetric_and_zero_for_equal_images_only(params):
    images, others = pair(1)
    there, back = jax.jit(lpips)(params, images, others), jax.jit(lpips)(params, others, images)
    np.testing.assert_allclose(there, back, rtol=1e-5)
    assert (there > 0).all()
    # The two halves of a batch may be summed in another order.
    np.testing.assert_allclose(jax.jit(lpips)(params, images, images), 0, atol=1e-12)


def test_a_new_network_weighs_all_channels_alike():
    image = jnp.zeros((1, 16, 16, 3))
    head = jax.jit(lambda key: LPIPS(WIDTHS).init(key, image, image)["params"]["lin1"]["kernel"])
    np.testing.assert_array_equal(head(jax.random.key(0)), np.ones((3, 1)))


@jax.jit
def value_and_gradients(params, images, others):
    total = lambda params, images: lpips(params, images, others).sum()  # noqa: E731
    return jax.value_and_grad(total, argnums=(0, 1))(params, images)


def test_gradients_reach_the_images_and_no_parameter(params):
    _, (of_params, of_images) = value_and_gradients(params, *pair(3))
    assert all((g == 0).all() for g in jax.tree.leaves(of_params))
    assert np.isfinite(of_images).all()
    assert (jnp.abs(of_images).max((1, 2, 3)) > 0).all()


def test_places_without_a_feature_give_zero_and_a_finite_gradient(params):
    """Biases far below zero silence every ReLU."""
    silent = jax.tree.map(lambda leaf: leaf - 1e3 if leaf.ndim == 1 else leaf, params)
    distance, (_, gradient) = value_and_gradients(silent, *pair(4))
    assert distance == 0
    np.testing.assert_array_equal(gradient, 0)


def test_images_of_another_shape_are_refused(params):
    images, others = pair(5)
    with pytest.raises(ValueError, match=r"images must be .* 16x16; got \(3, 15, 16, 3\)"):
        lpips(params, images[:, :15], others[:, :15])
    with pytest.raises(ValueError, match=r"images must be \[batch, .*got \(3, 20, 16, 1\)"):
        lpips(params, images[..., :1], others[..., :1])
    with pytest.raises(ValueError, match=r"others must be as images, .*got \(2, 20, 16, 3\)"):
        lpips(params, images, others[:2])


def test_a_file_must_hold_the_31_tensors_of_vgg16_and_lpips(tmp_path):
    path = tmp_path / "lpips.safetensors"
    save_file({"other": np.zeros(1, np.float32)}, path)
    with pytest.raises(ValueError, match=r"no tensor .* and 30 more"):
        load_lpips(path)
    wrong = {"lin4.model.1.weight": np.zeros((4,), np.float32)}
    save_file(torch_tensors() | wrong, path)
    message = r"lin4.model.1.weight must have shape \(1, 4, 1, 1\); got \(4,\)"
    with pytest.raises(ValueError, match=message):
        load_lpips(path, WIDTHS)
