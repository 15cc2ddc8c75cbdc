"""DoGE: weigh up the groups whose gradient agrees with the validation gradient.

Its three parts: the linear dynamic law, gradient products as estimator, and exponentiated gradient
descent as solver. It is a proxy run: the windows are drawn in equal shares, the weights act on the
groups' clipped gradients, and the mean weights are the proportions to train the final model on,
`static(mixer.result(state))`.
Source: Fan et al., "DoGE", ICML 2024 (arXiv 2310.15393), in the form of Chen et al., "Aioli", ICLR
2025, Section 3.2, and its released trainer.
"""

import math
from typing import Literal

from jlab.mixing.compose import linear, online
from jlab.mixing.gradient_products import gradient_products
from jlab.mixing.solvers import exponentiated_gradient_solver
from jlab.training.mixer import Mixer


def doge(
    temperature: float = 0.01,
    *,
    per_group: bool = False,
    average_over: Literal["evaluated", "trained"] = "evaluated",
) -> Mixer:
    """w <- softmax(log w + s / mu) in every step, s from the gradients of that step.

    Lives in the training step: the update direction is sum_j w_j g_j, with gradients g_j clipped
    to norm 1.

    Args:
        temperature: mu; 0.01 for two and three groups in the runs of the Aioli paper, 0.1 for
            seven.
        per_group: a validation gradient per group instead of one of the mean loss.
        average_over: `trained` averages the full matrix over the wrong axis, as released.

    Raises:
        ValueError: a temperature that is not positive, an axis that does not exist.
    """
    # Below 1e-30 its inverse is past what float32 can multiply.
    if not (math.isfinite(temperature) and temperature >= 1e-30):
        raise ValueError(f"temperature must be at least 1e-30 and finite; got {temperature}")
    estimator = gradient_products(per_group, average_over)
    return online(estimator, exponentiated_gradient_solver(1 / temperature), linear, average=True)
