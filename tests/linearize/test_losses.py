"""The losses of both steps: what is trained, and that parts and whole agree."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jlab.linearize import (
    TransferLoss,
    block_step,
    join_maps,
    split_maps,
    transfer_loss,
    transfer_step,
    tuning_step,
    with_trained,
)
from jlab.nn import TransferConfig, apply_stack, get_layer, restack, take_stack
from jlab.training.language import token_loss
from jlab.training.residuals import StreamBatch
from tests.linearize.models import GROUPS, adapted, adapters, batch, model
from tests.mixing.worlds import jit_in_haste

KEY = jax.random.key_data(jax.random.key(0))
LOSSES = {
    "mse": TransferLoss(),
    "scale free and xent": TransferLoss(mse_factor=3.0, xent_factor=2.0, scale_free=True),
}
ALL = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)


def places(given):
    return {"positions": given.positions, "segment_ids": given.segment_ids}


def gradients(loss_fn, trained, given):
    """Loss, what it tells, and gradients of the trained part."""
    compiled = jit_in_haste(jax.value_and_grad(loss_fn, has_aux=True))
    (value, aux), gradient = compiled(trained, {}, given, KEY)
    return value, aux, gradient


def assert_close(found, expected):
    """To 1e-4 of the greatest entry: float32, sums in another order through two layers."""
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        assert jnp.abs(b).max() > 0
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-4 * float(jnp.abs(b).max()))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mse_factor": -1}, "mse_factor must be (at least|>=) 0; got -1"),
        ({"xent_factor": -0.5}, "xent_factor must be (at least|>=) 0; got -0.5"),
        ({"mse_factor": 0}, "mse_factor and xent_factor must not both be 0"),
        ({"mse_factor": float("nan")}, "mse_factor must be (at least|>=) 0; got nan"),
    ],
)
def test_bad_factors_are_refused_by_name(fields, message):
    with pytest.raises(ValueError, match=message):
        TransferLoss(**fields)


@ALL
def test_a_step_of_transfer_is_the_transfer_loss_of_the_maps(loss):
    config, params = model()
    maps, frozen = split_maps(params)
    step = transfer_step(config, GROUPS, loss)
    value, aux, gradient = gradients(step(frozen), {"maps": maps}, batch())

    def of_all(params):
        return transfer_loss(config, params, batch().tokens, **places(batch()), **loss.factors())

    (wanted, found), of_params = jit_in_haste(jax.value_and_grad(of_all, has_aux=True))(params)
    np.testing.assert_allclose(value, wanted, rtol=1e-5)
    of_maps, of_rest = split_maps(of_params)
    assert_close(gradient, {"maps": of_maps})
    assert not any(jnp.any(leaf) for leaf in jax.tree.leaves(of_rest))  # maps and nothing else
    assert aux.metrics.keys() == {"group_loss", *(f"transfer/{name}" for name in found)}
    for name, each in found.items():
        np.testing.assert_allclose(aux.metrics[f"transfer/{name}"], each, rtol=1e-5)
    assert not aux.metrics["group_loss"].count.any()


def unrolled(config, params):
    """The same two layers as a pattern of two."""
    layers = [get_layer(params, config, n) for n in range(2)]
    config = replace(config, pattern=config.pattern * 2, repeats=1)
    return config, {**params, "blocks": restack(layers, config)}


@pytest.mark.parametrize(
    ("loss", "form"),
    [
        pytest.param(LOSSES[name], form, id=f"{name}, {form}")
        for name, form in zip(LOSSES, ("repeated", "irregular"), strict=True)
    ],
)
def test_a_blocks_gradient_is_its_part_of_that_of_all_layers(loss, form):
    config, params = model() if form == "repeated" else unrolled(*model())
    maps, frozen = split_maps(params)
    step = transfer_step(config, GROUPS, loss)
    whole, _, joint = gradients(step(frozen), {"maps": maps}, batch())
    joint = join_maps(joint["maps"], frozen)
    taught = replace(config, transfer=TransferConfig(weights=loss.xent_factor != 0))
    values, stream = [], params["embed"]["embedding"][batch().tokens]
    for n in range(2):
        stack, blocks = take_stack(params, taught, n, n + 1)
        own, rest = split_maps(blocks)
        given = StreamBatch(*batch(), stream)
        of_block = block_step(stack, GROUPS, loss, layers=2)
        value, aux, gradient = gradients(of_block(rest), {"maps": own}, given)
        values.append(value)
        expected = split_maps(take_stack(joint, taught, n, n + 1)[1])[0]
        assert_close(gradient, {"maps": expected})
        assert aux.metrics["transfer/mse"].shape == (1,)
        stream = after(stack, blocks, stream)
    np.testing.assert_allclose(sum(values), whole, rtol=1e-4)


def after(stack, blocks, stream):
    compiled = jit_in_haste(apply_stack, static_argnums=0)
    return compiled(stack, blocks, stream, batch().positions, batch().segment_ids)[0]


def test_a_block_computes_in_the_type_of_its_model():
    """A stream may be of a narrower type than the arrays that are trained."""
    config, params = model()
    taught = replace(config, transfer=TransferConfig(), dtype="bfloat16")
    stack, blocks = take_stack(params, taught, 0, 1)
    maps, rest = split_maps(blocks)
    stream = params["embed"]["embedding"][batch().tokens].astype(jnp.bfloat16)
    step = block_step(stack, GROUPS, TransferLoss(), layers=1)
    value, _, gradient = gradients(step(rest), {"maps": maps}, StreamBatch(*batch(), stream))
    assert value.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(gradient)} == {jnp.dtype("float32")}


def test_tuning_trains_what_it_is_given_and_nothing_else():
    """Adapters alone, or with the maps; the loss is that of the model's next tokens."""
    config, params = model()
    config = adapted(config)
    lora = adapters(config)
    maps, rest = split_maps(params)
    mask = batch().mask
    token = jit_in_haste(token_loss, static_argnums=0)
    expected = token(config, {"params": params, "lora": lora}, batch())
    for trained, frozen in (({"lora": lora}, params), ({"lora": lora, "maps": maps}, rest)):
        step = tuning_step(config, GROUPS)
        value, aux, gradient = gradients(step(frozen), trained, batch())
        np.testing.assert_allclose(value, (expected * mask).sum() / mask.sum(), rtol=1e-5)
        np.testing.assert_array_equal(aux.metrics["group_loss"].count, [2, 2])
        assert jax.tree.structure(gradient) == jax.tree.structure(trained)
        assert all(jnp.any(leaf) for leaf in jax.tree.leaves(gradient))


def test_dropout_is_drawn_from_the_steps_key():
    config, params = model()
    config = adapted(config, dropout=0.5)
    trained = {"lora": adapters(config)}
    loss_fn = jit_in_haste(tuning_step(config, GROUPS)(params))
    other = jax.random.key_data(jax.random.key(1))
    first, again, second = (loss_fn(trained, {}, batch(), key)[0] for key in (KEY, KEY, other))
    assert first == again
    assert first != second
    whole = tuning_step(adapted(model()[0]), GROUPS)(params)
    assert jit_in_haste(whole)(trained, {}, batch(), KEY)[0] not in (first, second)
    # Without a key, as in evaluations, nothing is dropped.
    plain = run_loss(config, with_trained(params, trained))
    np.testing.assert_allclose(plain, run_loss(adapted(model()[0]), with_trained(params, trained)))


def run_loss(config, variables):
    return jit_in_haste(token_loss, static_argnums=0)(config, variables, batch())
