"""Shapes and types of a linearized model, before anything is read or trained."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest

from jlab.linearize import SwapConfig, linearize, split_maps
from tests.nn.models import random_params
from tests.train.blocks import BASE, MAPS
from train.lolcats_config import Config
from train.lolcats_memory import abstract_linearized, initial_shapes

CONFIG = Config(swap=SwapConfig(window=3, feature_map=MAPS, affine=True))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_shapes_and_types_are_those_of_the_linearized_model(dtype):
    """A base in half the bytes is held in half the bytes; its maps learn in float32."""
    params = jax.tree.map(lambda x: x.astype(dtype), random_params(BASE))
    base = replace(BASE, dtype=dtype)
    config, shapes = abstract_linearized(CONFIG, base, params, "hybrid_sliding")
    expected, made = linearize(base, params, "hybrid_sliding", **CONFIG.swap.settings())
    assert config == expected
    assert shapes == jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), made)
    types = [{x.dtype for x in jax.tree.leaves(part)} for part in split_maps(shapes)]
    assert types == [{jnp.dtype("float32")}, {jnp.dtype(dtype)}]


def test_a_base_that_is_to_be_trained_has_float32_masters():
    base = replace(BASE, dtype="bfloat16")
    expected = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), random_params(BASE))
    assert initial_shapes(base) == expected
