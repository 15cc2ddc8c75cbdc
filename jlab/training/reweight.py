"""The training step of methods that reweight the groups by what they see in that same step.

DoReMi compares each group's loss with a reference model's, DoGE each group's gradient with the
validation gradient. Both first observe the batch, then update their weights, then take the step
with the new weights. The method is an ordinary `Mixer` that needs one of `IN_STEP`; its state
travels in `TrainState.extras["mixer"]`.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, PyTree

from jlab.data.batch import Batch
from jlab.nn import TransformerConfig
from jlab.training.language import token_loss, whole
from jlab.training.mixer import GroupGradients, Mixer, Observation
from jlab.training.state import TrainState
from jlab.training.step import guarded_update

CLIP = 1.0  # norm to which the released DoReMi and DoGE clip the gradient of each group
NORM_EPS = 1e-6


GivenStep = Callable[[TrainState, Batch, "Given"], tuple[TrainState, dict[str, Array]]]


class Given(NamedTuple):
    """What a reweighting step needs besides the batch; the same in every step."""

    reference: PyTree | None = None  # parameters of the reference model
    validation: Batch | None = None  # `[group, window, ...]`, to draw validation gradients from


def make_reweighting_step(
    config: TransformerConfig,
    optimizer: optax.GradientTransformation,
    learning_rate: optax.Schedule,
    mixer: Mixer,
    groups: int,
    mesh: Mesh,
    validation_windows: int = 0,
) -> GivenStep:
    """Build `step(state, batch, given) -> (state, metrics)`.

    Each group's rows make a loss and a gradient of their own, one group after the other, so a step
    costs about as much as a plain one (and a validation batch more where gradients are compared).

    Args:
        config: the model.
        optimizer: clipping and schedule included.
        learning_rate: the same schedule, for methods that scale by it.
        mixer: the method.
        groups: number of groups m.
        mesh: where the batch lies; each group's rows are split over its devices again.
        validation_windows: drawn of each group in every step, where gradients are compared.
    """
    compares = bool(mixer.needs & {"gradients", "gradient_matrix"})
    per_group = "gradient_matrix" in mixer.needs

    def step(state: TrainState, batch: Batch, given: Given) -> tuple[TrainState, dict[str, Array]]:
        parts = _by_group(batch, groups, mesh)
        losses, gradients, present = _losses_and_gradients(config, state.params, parts)
        rate = jnp.asarray(learning_rate(state.step), jnp.float32)
        reference = compared = None
        if given.reference is not None:
            reference = jax.lax.map(lambda part: _mean_loss(config, given.reference, part), parts)
        if compares:
            gradients = jax.vmap(_clipped)(gradients)
            wanted = _drawn(state, given.validation, validation_windows)
            if not per_group:
                wanted = jax.tree.map(lambda x: x.reshape(1, -1, *x.shape[2:]), wanted)
            towards = jax.vmap(_clipped)(_losses_and_gradients(config, state.params, wanted)[1])
            compared = _compare(towards, gradients)
        counts = (batch.group[:, None] == jnp.arange(groups)[None, :]).sum(0)
        seen = jnp.where(present, losses, jnp.nan)
        observation = Observation(
            step=state.step,
            learning_rate=rate,
            counts=counts.astype(jnp.float32),
            train_loss=seen,
            reference_loss=reference,
            gradients=compared,
        )
        method, metrics = mixer.update(state.extras["mixer"], observation)
        weights = mixer.plan(method).loss_weights
        combine = _weighted_sum if compares else _clipped_sum
        total = combine(weights, gradients)
        loss = jnp.where(present, weights * losses, 0.0).sum()
        extras = {**state.extras, "mixer": method}
        metrics = {**metrics, "group_loss": seen}
        return guarded_update(optimizer, state, loss, total, extras, metrics)

    return step


def rows_of_a_group(batch_size: int, groups: int) -> int:
    """The most rows that a group has in a batch of equal shares.

    The loader draws the groups in turns. Where the batch is no whole number of turns, a group may
    be the last of one turn and the first of the next.
    """
    if batch_size % groups == 0:
        return batch_size // groups
    return min(batch_size, batch_size // groups + 2)


def _by_group(batch: Batch, groups: int, mesh: Mesh) -> Batch:
    """The rows of each group along a new first axis, filled up with rows that do not count."""
    size = len(batch.group)
    room = rows_of_a_group(size, groups)
    found = jax.vmap(lambda g: jnp.nonzero(batch.group == g, size=room, fill_value=size)[0])(
        jnp.arange(groups)
    )
    parts = jax.tree.map(lambda x: x.at[found].get(mode="clip"), batch)
    parts = parts._replace(mask=jnp.where((found < size)[..., None], parts.mask, 0.0))
    ways = mesh.shape["data"] * mesh.shape["fsdp"]
    if room % ways:  # too few rows of a group for all devices: let the compiler place them
        return parts
    spread = NamedSharding(mesh, PartitionSpec(None, ("data", "fsdp")))
    return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, spread), parts)


def _losses_and_gradients(config: TransformerConfig, params: PyTree, parts: Batch):
    """Mean loss per target of each part, its gradient, and whether it has any target."""

    def of_one(part: Batch):
        loss, gradient = jax.value_and_grad(lambda params: _mean_loss(config, params, part))(params)
        return loss, gradient, part.mask.sum() > 0

    return jax.lax.map(of_one, parts)


def _mean_loss(config: TransformerConfig, params: PyTree, batch: Batch) -> Float[Array, ""]:
    total = batch.mask.sum()
    return (token_loss(config, whole(params), batch) * batch.mask).sum() / jnp.maximum(total, 1.0)


def _drawn(state: TrainState, validation: Batch, windows: int) -> Batch:
    """Windows of each group, drawn with replacement from a key of their own."""
    key = jax.random.fold_in(jax.random.fold_in(state.key, state.step), 1)
    groups, there = validation.group.shape
    chosen = jax.random.randint(key, (groups, windows), 0, there)
    return jax.tree.map(lambda x: jax.vmap(lambda of_group, i: of_group[i])(x, chosen), validation)


def _clipped(gradient: PyTree) -> PyTree:
    """The gradient, scaled down to norm 1 where it is longer."""
    scale = jnp.minimum(1.0, CLIP / (optax.tree.norm(gradient) + NORM_EPS))
    return jax.tree.map(lambda g: g * scale, gradient)


def _compare(towards: PyTree, gradients: PyTree) -> GroupGradients:
    """Inner products of stacked gradients, n with m of them, and the norms of the latter."""

    def product(v: Float[Array, "n ..."], g: Float[Array, "m ..."]) -> Float[Array, "n m"]:
        rows, columns = v.reshape(len(v), -1), g.reshape(len(g), -1)
        return jnp.matmul(rows, columns.T, precision="highest")

    products = sum(jax.tree.leaves(jax.tree.map(product, towards, gradients)))
    return GroupGradients(products, jax.vmap(optax.tree.norm)(gradients))


def _weighted_sum(weights: Float[Array, "m"], gradients: PyTree) -> PyTree:
    """sum_j w_j g_j."""
    return jax.tree.map(lambda g: jnp.tensordot(weights, g, axes=1), gradients)


def _clipped_sum(weights: Float[Array, "m"], gradients: PyTree) -> PyTree:
    """sum_j w_j g_j, clipped after each group's part, as released."""

    def add(total: PyTree, part: tuple[Array, PyTree]) -> tuple[PyTree, None]:
        weight, gradient = part
        return _clipped(jax.tree.map(lambda t, g: t + weight * g, total, gradient)), None

    zeros = jax.tree.map(lambda g: jnp.zeros_like(g[0]), gradients)
    return jax.lax.scan(add, zeros, (weights, gradients))[0]
