"""One optimiser step from a loss function.

A step is a pure function `(state, batch) -> (state, metrics)`; `jit_step` compiles it with the
state donated. The update is guarded: a loss or gradient that is not finite leaves parameters and
optimiser state as they were, so no run ever goes on with a NaN model.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree

from jlab.data.batch import Batch
from jlab.training.state import Aux, Mean, TrainState

LossFn = Callable[[PyTree, dict, Batch, Array], tuple[Array, Aux]]
StepFn = Callable[[TrainState, Batch], tuple[TrainState, dict[str, Array]]]


def make_train_step(
    loss_fn: LossFn, optimizer: optax.GradientTransformation, accumulate: int = 1
) -> StepFn:
    """Build `step(state, batch) -> (state, metrics)`.

    Args:
      loss_fn: `(params, extras, batch, key) -> (loss, Aux)`, where the loss is a mean over
        `Aux.weight` of the batch.
      optimizer: clipping and schedule included, see `make_optimizer`.
      accumulate: number of equal slices of the batch whose gradients are averaged by their weights
        before the update, which gives the whole batch's; the batch size must be a multiple of it.
        Metrics are averaged too.

    Returns:
      A pure function. Its metrics are those of the loss with `loss`, `grad_norm` (before
      clipping) and `finite` (bool: whether the update was applied) added.
    """
    gradient = jax.value_and_grad(loss_fn, has_aux=True)

    def gradients(state: TrainState, batch: Batch):
        key = jax.random.fold_in(state.key, state.step)
        if accumulate == 1:
            return gradient(state.params, state.extras, batch, key)
        # Strided slices: each keeps rows of every device, so a split batch stays where it is.
        slices = jax.tree.map(
            lambda x: x.reshape(-1, accumulate, *x.shape[1:]).swapaxes(0, 1), batch
        )

        def add(carry, inputs):
            extras, total = carry
            index, part = inputs
            (loss, aux), grads = gradient(
                state.params, extras, part, jax.random.fold_in(key, index)
            )
            total = jax.tree.map(lambda a, g: a + aux.weight * g, total, grads)
            return (aux.extras, total), (loss, aux.metrics, aux.weight)

        zeros = jax.tree.map(jnp.zeros_like, state.params)
        (extras, total), (losses, metrics, weights) = jax.lax.scan(
            add, (state.extras, zeros), (jnp.arange(accumulate), slices)
        )
        whole = jnp.where(weights.sum() > 0, weights.sum(), 1.0)  # 0: no slice has any target
        share = weights / whole
        grads = jax.tree.map(lambda g: g / whole, total)
        return (share @ losses, Aux(_joined(metrics, share), extras)), grads

    def step(state: TrainState, batch: Batch):
        (loss, aux), grads = gradients(state, batch)
        return guarded_update(optimizer, state, loss, grads, aux.extras, _divided(aux.metrics))

    return step


def guarded_update(
    optimizer: optax.GradientTransformation,
    state: TrainState,
    loss: Float[Array, ""],
    grads: PyTree,
    extras: dict,
    metrics: dict[str, Array],
) -> tuple[TrainState, dict[str, Array]]:
    """Apply a gradient unless it or the loss is not finite; then only the step counter moves.

    Args:
      optimizer: clipping and schedule included.
      state: before the step.
      loss: of the step.
      grads: of the parameters.
      extras: the collections after the step.
      metrics: of the step; `loss`, `grad_norm` (before clipping) and `finite` are added.
    """
    norm = optax.tree.norm(grads)
    finite = jnp.isfinite(loss) & jnp.isfinite(norm)

    def apply(_):
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        return optax.apply_updates(state.params, updates), opt_state, extras

    def keep(_):
        return state.params, state.opt_state, state.extras

    params, opt_state, extras = jax.lax.cond(finite, apply, keep, None)
    metrics = {**metrics, "loss": loss, "grad_norm": norm, "finite": finite}
    return TrainState(state.step + 1, params, opt_state, extras, state.key), metrics


def _joined(metrics: dict[str, Array | Mean], share: Float[Array, "slices"]) -> dict:
    """Metrics of the whole batch from those of its slices, stacked along a first axis."""
    return {
        name: Mean(*(x.sum(0) for x in value))
        if isinstance(value, Mean)
        else jnp.tensordot(share, value, axes=1)
        for name, value in metrics.items()
    }


def _divided(metrics: dict[str, Array | Mean]) -> dict[str, Array]:
    return {
        name: value.total / value.count if isinstance(value, Mean) else value
        for name, value in metrics.items()
    }


def jit_step(step: StepFn, state: TrainState) -> StepFn:
    """Compile a step for a state's shardings: the state is donated and comes back placed alike.

    Arguments after the state are passed on. `state` may hold just shapes with shardings.
    """
    shardings = jax.tree.map(lambda x: x.sharding, state)
    return jax.jit(step, donate_argnums=0, out_shardings=(shardings, None))
