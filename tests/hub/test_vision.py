"""Weights of vision networks from safetensors: what is read, and what is refused."""

import numpy as np
import pytest
from safetensors.numpy import save_file

from jlab.hub.vision import as_kernel, load_vision, weight_shape

SHAPES = {"features.0.weight": (4, 3, 2, 2), "features.0.bias": (4,)}


def tensors() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}


def test_what_is_asked_for_is_read_in_float32_and_nothing_else(tmp_path):
    path = tmp_path / "vgg.safetensors"
    half = {name: tensor.astype(np.float16) for name, tensor in tensors().items()}
    save_file(half | {"classifier.6.bias": np.zeros(3, np.int64)}, path)
    read = load_vision(str(path), SHAPES)
    assert set(read) == set(SHAPES)
    for name, tensor in read.items():
        assert tensor.dtype == np.float32
        np.testing.assert_array_equal(tensor, half[name].astype(np.float32))


@pytest.mark.parametrize("name", ["vgg16.pth", "vgg16.pt", "model.bin"])
def test_a_pickle_is_refused_by_name_with_the_way_out(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"\x80\x02")
    with pytest.raises(ValueError, match=rf"{name} is a pickle.*safetensors.torch.save_file"):
        load_vision(path, SHAPES)


def test_missing_tensors_are_named(tmp_path):
    path = tmp_path / "vgg.safetensors"
    some = tensors()
    del some["features.0.weight"]
    save_file(some, path)
    with pytest.raises(ValueError, match=r"vgg.safetensors: no tensor features.0.weight$"):
        load_vision(path, SHAPES)
    save_file({"x": np.zeros(1, np.float32)}, path)
    with pytest.raises(ValueError, match=r"no tensor features.0.weight and 1 more$"):
        load_vision(path, SHAPES)
    with pytest.raises(FileNotFoundError, match=r"other.safetensors is not a file"):
        load_vision(tmp_path / "other.safetensors", SHAPES)


def test_other_shapes_and_types_are_refused(tmp_path):
    path = tmp_path / "vgg.safetensors"
    save_file(tensors() | {"features.0.bias": np.zeros(3, np.float32)}, path)
    with pytest.raises(ValueError, match=r"features.0.bias must have shape \(4,\); got \(3,\)"):
        load_vision(path, SHAPES)
    save_file(tensors() | {"features.0.bias": np.zeros(4, np.int32)}, path)
    with pytest.raises(ValueError, match=r"features.0.bias must be of type F32, .*; got I32"):
        load_vision(path, SHAPES)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(ValueError, match=r"vgg.safetensors is damaged"):
        load_vision(path, SHAPES)


@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 5, 2)])
def test_kernels_have_the_weights_axes_in_our_order(shape):
    weight = np.arange(np.prod(shape)).reshape(shape)
    kernel = as_kernel(weight)
    assert weight_shape(kernel.shape) == shape
    assert kernel[..., 2, 1].ravel().tolist() == weight[1, 2].ravel().tolist()
