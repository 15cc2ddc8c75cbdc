"""The learning rate of the paper's runs: from zero, half a cosine, then flat."""

import numpy as np
import pytest

from jlab.training import OptimConfig, make_schedule
from tests.vq.reference import cases, get

pytestmark = pytest.mark.golden


@pytest.mark.parametrize("family", cases(r"(sched)_lr"))
def test_the_released_schedule(family):
    settings, expected = get(f"{family}_cfg", f"{family}_lr")
    rate, warmup, decay, divisor = settings
    config = OptimConfig(
        schedule="warmup_cosine",
        learning_rate=float(rate),
        end_learning_rate=float(rate / divisor),
        warmup_steps=int(warmup),
        decay_steps=int(decay),
    )
    schedule = make_schedule(config, steps=len(expected))
    found = [float(schedule(step)) for step in range(len(expected))]
    # float32, of a cosine that ends near its least value.
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6 * rate)
