"""The trained part and the rest, taken apart and put together."""

import jax
import numpy as np
import pytest

from jlab.linearize import join_maps, split_maps, with_trained
from tests.linearize.models import model


def names(tree):
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves}


@pytest.mark.parametrize("kind", ["linear", "hybrid_terrace"])
def test_maps_and_window_factors_are_one_part_and_all_else_the_other(kind):
    _, params = model(kind)
    maps, rest = split_maps(params)
    wanted = {"feature_map_q/map", "feature_map_k/map"} | (
        {"window_factor"} if kind.startswith("hybrid") else set()
    )
    assert names(maps) == {f"blocks/0/attn/linearized/{name}" for name in wanted}
    assert names(maps) | names(rest) == names(params)
    assert not names(maps) & names(rest)


def test_joined_again_they_are_the_parameters_themselves():
    _, params = model()
    joined = join_maps(*split_maps(params))
    assert jax.tree.structure(joined) == jax.tree.structure(params)
    assert all(a is b for a, b in zip(*map(jax.tree.leaves, (joined, params)), strict=True))


def test_a_softmax_model_has_no_maps():
    maps, rest = split_maps({"embed": {"embedding": np.ones(2)}})
    assert maps == {}
    assert names(rest) == {"embed/embedding"}


def test_variables_are_the_frozen_parameters_with_what_is_trained():
    _, params = model()
    maps, rest = split_maps(params)
    lora = {"blocks": {"0": {"attn": {"q_proj": {"a": np.ones(1), "b": np.ones(1)}}}}}
    new = jax.tree.map(lambda x: x + 1, maps)
    assert with_trained(params, {}).keys() == {"params"}
    jax.tree.map(np.testing.assert_array_equal, with_trained(params, {})["params"], params)
    tuned = with_trained(params, {"lora": lora})
    assert tuned["lora"] is lora
    jax.tree.map(np.testing.assert_array_equal, tuned["params"], params)
    both = with_trained(rest, {"maps": new, "lora": lora})
    assert both.keys() == {"params", "lora"}
    jax.tree.map(np.testing.assert_array_equal, both["params"], join_maps(new, rest))
    # Trained maps replace frozen ones, should both be there.
    over = with_trained(params, {"maps": new})
    jax.tree.map(np.testing.assert_array_equal, over["params"], join_maps(new, rest))
