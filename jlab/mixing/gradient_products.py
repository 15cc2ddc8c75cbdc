"""The estimator of DoGE: how well the gradient of each group agrees with the validation gradient.

A first-order step on group j lowers validation loss i by the learning rate times <v_i, g_j>, so
A^t[i, j] = <grad L_i^val, grad L_j^train>. DoGE scales the products, and clips the gains.
Symbols: g_j, v -> gradients, each clipped to norm 1; s -> gain[m]; lr_t -> learning_rate.
Source: Chen et al., "Aioli", ICLR 2025, Section 3.2; Fan et al., "DoGE", ICML 2024 (arXiv
2310.15393).
"""

from typing import Literal, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jlab.mixing.compose import Estimator
from jlab.mixing.mixer import reweighting_plan
from jlab.training.mixer import Observation

NORM_EPS = 1e-6
GREATEST_GAIN = 5.0  # in learning rates


class ProductsState(NamedTuple):
    """Last gains."""

    matrix: Float[Array, "1 m"]  # s, a row: the gain of the mean validation loss


def gradient_products(
    per_group: bool = False, average_over: Literal["evaluated", "trained"] = "evaluated"
) -> Estimator:
    """s_j = lr_t <v, g_j> / (mean_k ||g_k|| + 1e-6), clipped to [0, 5 lr_t], after every step.

    Args:
        per_group: observe the products with the validation gradient of each group, a full matrix
            <v_i, g_j>, and average them; False: with the gradient of the mean validation loss.
        average_over: axis of that matrix; `trained` is the released code's mode, in which s_j
            averages <v_j, g_k> over the trained groups k.

    Raises:
        ValueError: an axis that does not exist.
    """
    if average_over not in ("evaluated", "trained"):
        raise ValueError(f"average_over must be evaluated or trained; got {average_over!r}")
    axis = ("evaluated", "trained").index(average_over)

    def init(key: Array, m: int) -> ProductsState:
        del key
        return ProductsState(jnp.zeros((1, m)))

    def update(
        state: ProductsState, observation: Observation, proportions: Float[Array, "m"]
    ) -> tuple[ProductsState, Bool[Array, ""]]:
        del proportions
        products, norms = observation.gradients
        dtype = state.matrix.dtype
        rate = jnp.asarray(observation.learning_rate, dtype)
        score = products.mean(axis) if len(products) > 1 else products[0]
        gain = rate * score.astype(dtype) / (norms.astype(dtype).mean() + NORM_EPS)
        gain = jnp.clip(gain, 0, GREATEST_GAIN * rate)
        return ProductsState(gain[None, :]), jnp.ones((), bool)

    wanted = "gradient_matrix" if per_group else "gradients"
    return Estimator(
        init,
        lambda state, proportions: reweighting_plan(proportions),
        update,
        needs=frozenset({"train_loss", wanted}),
    )
