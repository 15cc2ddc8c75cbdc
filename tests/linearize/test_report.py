"""The report of layers: what is measured of each, averaged over batches."""

from dataclasses import replace

import numpy as np
import pytest

from jlab.data import evaluation_batches, pack
from jlab.linearize import layer_report, measure_transfer
from jlab.nn import TransferConfig
from tests.linearize.models import LENGTH, SOFTMAX, batch, model
from tests.mixing.worlds import jit_in_haste
from tests.nn.models import random_params


@pytest.mark.parametrize("kind", ["linear", "hybrid_terrace"])
def test_it_is_the_mean_over_batches_of_what_each_layer_sows(kind):
    config, params = model(kind)
    batches = [batch(0), batch(1)]
    found = layer_report(config, params, batches)
    taught = replace(config, transfer=TransferConfig(weights=True))
    measure = jit_in_haste(measure_transfer, static_argnums=0)
    one, two = (
        measure(taught, params, b.tokens, positions=b.positions, segment_ids=b.segment_ids)
        for b in batches
    )
    assert set(found) == {"mse", "variance", "xent", "entropy", "reach"}
    for name, values in found.items():
        assert [type(x) for x in values] == [float, float]  # one per layer, as JSON takes them
        assert not np.allclose(one[name], two[name], rtol=1e-3)  # else any of them would do
        expected = (one[name] + two[name]) / 2
        np.testing.assert_allclose(values, expected, rtol=1e-4)  # compiled in another way


def test_it_does_not_depend_on_the_batch_size():
    """Three windows in batches of three and of four, of which one row only fills."""
    config, params = model()
    windows = pack([np.random.default_rng(0).integers(0, 13, 3 * LENGTH + 1)], length=LENGTH)
    whole, filled = (list(evaluation_batches([windows], size)) for size in (3, 4))
    found, expected = (layer_report(config, params, x)["mse"] for x in (filled, whole))
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_a_softmax_model_has_no_layers_to_report():
    with pytest.raises(ValueError, match="config must have linear or hybrid layers; got softmax"):
        layer_report(SOFTMAX, random_params(SOFTMAX), [batch()])
