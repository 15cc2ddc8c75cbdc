"""Where parameters lie: rules by name, on meshes that are only described."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import optax
import pytest
from jax.sharding import AbstractMesh, AxisType
from jax.sharding import PartitionSpec as P

from jlab.linearize import split_maps
from jlab.nn import (
    FeatureMapConfig,
    LoRASpec,
    Transformer,
    TransformerConfig,
    llama,
    lora_init,
    neox,
)
from jlab.training import MeshConfig, init_state, make_mesh
from jlab.training.mesh import batch_rows, param_shardings, state_shardings
from jlab.training.partial import StageConfig, part_shapes

AXES = ("data", "fsdp", "tensor")
MESH = AbstractMesh((2, 2, 2), AXES, axis_types=(AxisType.Auto,) * 3)


def shapes(config: TransformerConfig):
    """Parameters of a model as shapes."""
    tokens = jnp.zeros((1, 4), jnp.int32)
    return jax.eval_shape(Transformer(config).init, jax.random.key(0), tokens)["params"]


def specs(tree):
    """Partition of every leaf by its path."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): x.spec for path, x in leaves}


LLAMA = llama(d_model=16, layers=2, heads=4, kv_heads=2, d_ff=32, vocab_size=64)


def test_projections_split_over_both_axes_and_norms_over_none():
    found = specs(param_shardings(shapes(LLAMA), MESH))
    assert found["embed/embedding"] == P("tensor", "fsdp")
    assert found["blocks/0/attn/q_proj/kernel"] == P(None, "fsdp", "tensor")
    assert found["blocks/0/mlp/down_proj/kernel"] == P(None, "tensor", "fsdp")
    assert all(spec == P() for name, spec in found.items() if "norm" in name)


def test_every_matrix_of_both_families_has_a_rule():
    """A new matrix that no rule names would lie whole on every device without anybody noticing."""
    for config in (LLAMA, neox(d_model=32, layers=2, heads=4, d_ff=32, vocab_size=64)):
        params = shapes(config)
        found = specs(param_shardings(params, MESH))
        matrices = [name for name in found if name.endswith(("kernel", "embedding"))]
        assert matrices
        assert all(any(found[name]) for name in matrices)


def test_an_axis_that_does_not_divide_stays_whole():
    config = llama(d_model=18, layers=1, heads=3, kv_heads=3, d_ff=33, vocab_size=63)
    found = specs(param_shardings(shapes(config), MESH))
    assert found["embed/embedding"] == P(None, "fsdp")  # 63 is odd, 18 is not
    assert found["blocks/0/mlp/up_proj/kernel"] == P(None, "fsdp", None)


def test_moments_lie_as_their_parameters():
    optimizer = optax.adamw(1e-3)
    state = jax.eval_shape(lambda p: init_state(p, optimizer, jax.random.key(0)), shapes(LLAMA))
    placed = state_shardings(state, optimizer, MESH)
    assert specs(placed.opt_state[0].mu) == specs(placed.params)
    assert placed.opt_state[0].count.spec == P()


TARGETS = ("attn\\..*_proj", "mlp\\..*_proj", "lm_head")
MAPS = {
    "hedgehog": FeatureMapConfig(features=3),
    "biased": FeatureMapConfig("relu", 4, bias=True),
    "adapter": FeatureMapConfig("exp", 4, "adapter"),
}


def linearized(maps):
    """A hybrid model with adapters everywhere, and its trained part, as shapes."""
    layer = replace(LLAMA.pattern[0], attention="hybrid_sliding", window=2, feature_map=maps)
    config = replace(LLAMA, pattern=(layer,), lora=LoRASpec(rank=2, targets=TARGETS))
    params = shapes(config)
    lora = jax.eval_shape(lambda: lora_init(config, params, jax.random.key(0)))
    return config, {"lora": lora, "maps": split_maps(params)[0]}


def test_adapters_lie_as_the_kernels_that_they_are_beside():
    """`a` is split as the kernel's inputs, `b` as its outputs, and the rank between them never."""
    kernels = specs(param_shardings(shapes(LLAMA), MESH))
    found = specs(param_shardings(linearized(MAPS["hedgehog"])[1]["lora"], MESH))
    names = {name.removesuffix("/kernel") for name in kernels if name.endswith("/kernel")}
    assert len(names) == 8  # four projections, three of the MLP, the head
    assert found.keys() == {f"{name}/{half}" for name in names for half in "ab"}
    for name in names:
        *lead, inputs, outputs = kernels[f"{name}/kernel"]
        assert {inputs, outputs} == {"fsdp", "tensor"}
        assert found[f"{name}/a"] == P(*lead, inputs, None)
        assert found[f"{name}/b"] == P(*lead, None, outputs)


@pytest.mark.parametrize("maps", MAPS.values(), ids=MAPS)
def test_maps_and_window_factors_lie_with_their_heads(maps):
    """Leading axis: layers. Biases are small and lie everywhere."""
    trained = linearized(maps)[1]["maps"]
    found = specs(param_shardings(trained, MESH))
    held = {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape
        for path, leaf in jax.tree_util.tree_leaves_with_path(trained)
    }
    assert any("map" in name.split("/")[-1] for name in held)
    for name, shape in held.items():
        kind = name.split("/")[-1]
        assert shape[1] == 4  # heads
        whole = [None] * (len(shape) - 2)
        expected = P() if kind.startswith("bias") else P(None, "tensor", *whole)
        assert found[name] == expected, name


def test_the_state_of_a_trained_part_lies_as_the_part():
    trained = linearized(MAPS["hedgehog"])[1]
    state = part_shapes(StageConfig(), trained, MESH, 2)
    (adam,) = (part for part in state.opt_state if hasattr(part, "mu"))
    placed = [jax.tree.map(lambda x: x.sharding, tree) for tree in (state.params, adam.mu, adam.nu)]
    where = [specs(tree) for tree in placed]
    assert where == [specs(param_shardings(trained, MESH))] * 3
    assert sum(any(spec) for spec in where[0].values()) == len(where[0])


def test_a_mesh_takes_all_devices_by_default():
    assert make_mesh().size == jax.device_count()


def test_a_mesh_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"data x fsdp x tensor = 3 x 1 x 1 must equal .* 1$"):
        make_mesh(MeshConfig(data=3))


def test_a_batch_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match=r"batch_size must be a multiple of .* = 3; got 4"):
        batch_rows(4, make_mesh(), accumulate=3)


def test_one_process_feeds_the_whole_batch():
    assert batch_rows(8, make_mesh()) == slice(0, 8)
