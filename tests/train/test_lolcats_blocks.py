"""Attention transfer block by block gives the maps of all layers at once."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jlab.linearize import split_maps
from jlab.training import Run
from jlab.training.partial import train_part
from tests.train.blocks import FREE, MSE, XENT, by_block, linearized, stage_of

pytestmark = pytest.mark.usefixtures("compiled_once")
# Optimiser, layers per block, loss, layers that stay softmax, kind of the others.
CASES = [
    ("sgd", 1, FREE, (), "hybrid_sliding"),
    ("adam", 2, MSE, (2,), "linear"),
    pytest.param("adam", 1, MSE, (), "hybrid_sliding", marks=pytest.mark.slow),
    pytest.param("adam", 3, MSE, (), "hybrid_terrace", marks=pytest.mark.slow),
    pytest.param("sgd", 2, MSE, (), "linear", marks=pytest.mark.slow),
    pytest.param("adam", 1, FREE, (0, 1), "hybrid_sliding", marks=pytest.mark.slow),
    pytest.param("adam", 2, XENT, (), "hybrid_terrace", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("optimizer", "layers", "loss", "kept", "kind"), CASES)
def test_maps_come_out_as_of_all_layers_at_once(tmp_path, optimizer, layers, loss, kept, kind):
    """Same steps on the same windows; blocks of softmax layers alone pass on what enters them."""
    given = linearized(kept, kind)
    found = by_block(tmp_path / "blocks", layers, given, loss, optimizer)
    maps, frozen = split_maps(given[1])
    stage, start = stage_of(given[0], loss, optimizer), {"maps": maps}
    expected = train_part(stage, start, frozen, Run(tmp_path / "joint"), "")["maps"]
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b, c in zip(*map(jax.tree.leaves, (found, expected, maps)), strict=True):
        moved = float(jnp.abs(b - c).max())
        assert moved > 1e-3
        # Gradients agree to float32 rounding; Adam divides by their size, small ones included.
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-3 * moved)
    assert not list((tmp_path / "blocks" / "streams").iterdir())


@pytest.mark.parametrize("layers", [1, 2])
def test_blocks_that_cut_the_pattern_are_refused(tmp_path, layers):
    config, params = linearized()
    pattern = config.pattern * 3
    config = replace(config, pattern=pattern, repeats=2)
    params = params | {"blocks": {str(i): params["blocks"]["0"] for i in range(3)}}
    with pytest.raises(ValueError, match=r"layers must be cut between repeats of the pattern of 3"):
        by_block(tmp_path, layers, (config, params))
