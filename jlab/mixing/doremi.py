"""DoReMi: weigh up the groups on which a proxy model lags behind a reference model.

Its three parts: the linear dynamic law, excess losses as estimator, and exponentiated gradient
descent with a little smoothing as solver. It is a proxy run: the windows are drawn in equal
shares, the weights act on the loss, and the mean weights are the proportions to train the final
model on, `static(mixer.result(state))`. The reference model is an ordinary run of the same length.
Source: Xie et al., "DoReMi", NeurIPS 2023, Algorithm 1 (arXiv 2305.10429), in the form of Chen et
al., "Aioli", ICLR 2025, Section 3.2, and its released trainer.
"""

from jlab.mixing.compose import linear, online
from jlab.mixing.excess_loss import excess_loss
from jlab.mixing.solvers import exponentiated_gradient_solver
from jlab.training.mixer import Mixer


def doremi(learning_rate: float = 0.01, *, smoothing: float = 1e-3) -> Mixer:
    """w <- softmax(log w + mu e), then (1 - c) w + c / m, in every step.

    Lives in the training step: the weights of a step come from that step's own losses. The loss of
    a step is sum_j w_j L_j.

    Args:
        learning_rate: mu; 0.01 in the runs of the Aioli paper, 1 in DoReMi's.
        smoothing: c, share of uniform.

    Raises:
        ValueError: a negative rate, a share outside [0, 1].
    """
    solver = exponentiated_gradient_solver(learning_rate, smoothing=smoothing)
    return online(excess_loss(), solver, linear, average=True)
