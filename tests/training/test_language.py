"""The language-model loss and its evaluation: by hand on logits, and what must not matter."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jlab.data import evaluation_batches
from jlab.data.batch import Batch
from jlab.nn import LoRASpec, Transformer, llama, lora_init, lora_merge
from jlab.training import init_state, language_loss, make_evaluate, make_mesh, make_train_step
from jlab.training.language import token_loss
from tests.mixing.worlds import jit_in_haste

VOCAB = 5
CONFIG = llama(d_model=8, layers=1, heads=2, d_ff=16, vocab_size=VOCAB)
GROUPS = 3  # the last one has no rows
ROWS, LENGTH = 4, 3
# Compiled once for all tests.
LOSS = jit_in_haste(language_loss(CONFIG, GROUPS))
TOKEN_LOSS = jit_in_haste(token_loss, static_argnums=0)


@pytest.fixture(scope="module")
def params():
    tokens = jnp.zeros((1, LENGTH), jnp.int32)
    return jit_in_haste(Transformer(CONFIG).init)(jax.random.key(0), tokens)["params"]


def make_batch(**fields) -> Batch:
    """Four rows of one document each; the first, third and fourth of group 0."""
    random = np.random.default_rng(0)
    text = random.integers(0, VOCAB, (ROWS, LENGTH + 1), dtype=np.int32)
    made = Batch(
        tokens=text[:, :-1],
        targets=text[:, 1:],
        mask=np.array([[1, 1, 1], [1, 0, 1], [0, 1, 0], [0, 0, 0]], np.float32),
        segment_ids=np.zeros((ROWS, LENGTH), np.int32),
        positions=np.tile(np.arange(LENGTH, dtype=np.int32), (ROWS, 1)),
        group=np.array([0, 1, 0, 0], np.int32),
        ids=np.arange(ROWS, dtype=np.int32),
    )
    return jax.tree.map(jnp.asarray, made._replace(**fields))


def losses(params, batch):
    """Token losses from the logits, in float64 and by the definition."""
    apply = jit_in_haste(Transformer(CONFIG).apply)
    output = apply({"params": params}, batch.tokens, batch.positions, batch.segment_ids)
    logits = np.asarray(output.logits, np.float64)
    log_z = np.log(np.exp(logits).sum(-1))
    chosen = np.take_along_axis(logits, np.asarray(batch.targets)[..., None], -1)[..., 0]
    return log_z - chosen, log_z


@pytest.fixture(scope="module")
def by_hand(params):
    return losses(params, make_batch())


# rtol=1e-5 below: the model's float32 sums against float64.
CLOSE = {"rtol": 1e-5, "atol": 1e-6}


def test_the_loss_is_the_mean_over_targets_and_a_groups_loss_over_its_rows(params, by_hand):
    """Group 0: row 0 with three targets and row 2 with one, counted alike; row 3 has none."""
    token, batch = by_hand[0], make_batch()
    mean, aux = LOSS(params, {}, batch, None)
    mask = np.asarray(batch.mask)
    np.testing.assert_allclose(mean, (token * mask).sum() / 6, **CLOSE)
    np.testing.assert_allclose(aux.weight, 6)
    group = aux.metrics["group_loss"]
    np.testing.assert_allclose(group.count, [2, 1, 0])
    first = (token[0].mean() + token[2, 1]) / 2
    second = (token[1, 0] + token[1, 2]) / 2
    np.testing.assert_allclose((group.total / group.count)[:2], [first, second], **CLOSE)


def test_weights_of_groups_weigh_targets(params, by_hand):
    """Group 0 has 4 targets of weight 0.1, group 1 has 2 of weight 0.01: their sum is below 1."""
    token, batch = by_hand[0], make_batch()
    weights = {"loss_weights": jnp.array([0.1, 0.01, 9.0])}
    mean, aux = LOSS(params, weights, batch, None)
    weighted = 0.1 * (token[0].sum() + token[2, 1]) + 0.01 * (token[1, 0] + token[1, 2])
    np.testing.assert_allclose(mean, weighted / 0.42, **CLOSE)
    np.testing.assert_allclose(aux.weight, 0.42, **CLOSE)
    assert aux.extras is weights or "loss_weights" in aux.extras
    ones, _ = LOSS(params, {"loss_weights": jnp.ones(3)}, batch, None)
    plain, without = LOSS(params, {}, batch, None)
    assert float(ones) == float(plain)
    # The losses of the groups themselves are not weighed.
    np.testing.assert_array_equal(
        aux.metrics["group_loss"].total, without.metrics["group_loss"].total
    )


def test_z_loss_adds_the_square_of_the_log_normaliser(params, by_hand):
    (token, log_z), batch = by_hand, make_batch()
    mean, _ = jit_in_haste(language_loss(CONFIG, 2, z_loss=0.1))(params, {}, batch, None)
    mask = np.asarray(batch.mask)
    np.testing.assert_allclose(mean, ((token + 0.1 * log_z**2) * mask).sum() / 6, **CLOSE)


def test_a_nan_in_one_row_stays_in_its_group(params):
    batch = make_batch()
    batch = batch._replace(mask=batch.mask.at[1, 0].set(jnp.nan))
    mean, aux = LOSS(params, {}, batch, None)
    group = aux.metrics["group_loss"]
    assert np.isnan(mean)
    np.testing.assert_array_equal(np.isnan(group.total), [False, True, False])
    np.testing.assert_array_equal(group.count, [2, 1, 0])


def test_a_batch_without_targets_has_no_loss(params):
    batch = make_batch(mask=np.zeros((ROWS, LENGTH), np.float32))
    mean, aux = LOSS(params, {}, batch, None)
    assert float(mean) == float(aux.weight) == 0


def test_documents_in_a_window_do_not_see_each_other(params):
    """A window of documents (a b c) (d e) gives the losses that they have in windows of their own.

    Rows: both documents; the first, then filling; the second, then filling; both as if one.
    """
    tokens = np.array([[1, 2, 3, 4, 0], [1, 2, 3, 1, 1], [4, 0, 2, 2, 2], [1, 2, 3, 4, 0]])
    targets = np.array([[2, 3, 1, 0, 2], [2, 3, 1, 3, 3], [0, 2, 4, 4, 4], [2, 3, 1, 0, 2]])
    segments = np.array([[0, 0, 0, 1, 1], [0, 0, 0, 1, 1], [0, 0, 1, 1, 1], [0, 0, 0, 0, 0]])
    positions = np.array([[0, 1, 2, 0, 1], [0, 1, 2, 0, 1], [0, 1, 0, 1, 2], [0, 1, 2, 0, 1]])
    given = Batch(tokens, targets, np.ones_like(tokens), segments, positions, None, None)
    both, first, second, as_one = np.asarray(TOKEN_LOSS(CONFIG, {"params": params}, given))
    # 1e-5: float32; masked keys leave sums of zeros.
    np.testing.assert_allclose(both[:3], first[:3], rtol=1e-5)
    np.testing.assert_allclose(both[3:], second[:2], rtol=1e-5)
    assert np.abs(both[3:] - as_one[3:]).max() > 1e-3


def test_slices_of_a_masked_batch_add_up_to_it(params):
    """Rows with 3, 2, 1 and 0 targets: a mean of the slices' means would be another loss."""
    weights = {"loss_weights": jnp.array([1.0, 0.5, 1.0])}
    optimizer = optax.sgd(0.1)
    state = init_state(params, optimizer, jax.random.key(0), weights)
    loss = language_loss(CONFIG, GROUPS)
    whole, expected = jit_in_haste(make_train_step(loss, optimizer))(state, make_batch())
    parts, got = jit_in_haste(make_train_step(loss, optimizer, accumulate=4))(state, make_batch())
    # 1e-5: float32 gradients summed in another order.
    for a, b in zip(jax.tree.leaves(parts.params), jax.tree.leaves(whole.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(got["loss"], expected["loss"], rtol=1e-5)
    np.testing.assert_allclose(got["group_loss"], expected["group_loss"], rtol=1e-5)
    assert np.isfinite(got["group_loss"][:2]).all()  # though no slice has both groups


def test_computing_in_bfloat16_keeps_float32_parameters_and_moments(params):
    config = replace(CONFIG, dtype="bfloat16")
    optimizer = optax.adam(1e-6)
    state = init_state(params, optimizer, jax.random.key(0))
    step = jit_in_haste(make_train_step(language_loss(config, 2), optimizer))
    after, metrics = step(state, make_batch())
    floats = [x for x in jax.tree.leaves(after) if jnp.issubdtype(x.dtype, jnp.floating)]
    assert {x.dtype for x in floats} == {jnp.dtype("float32")}
    assert metrics["loss"].dtype == metrics["group_loss"].dtype == jnp.float32
    # It did compute in bfloat16, whose steps are 2^-8, and the small update is not lost in them.
    exact, _ = LOSS(params, {}, make_batch(), None)
    assert 1e-6 < abs(float(exact) - float(metrics["loss"])) < 0.05
    moved = [
        float(jnp.abs(a - b).max())
        for a, b in zip(jax.tree.leaves(after.params), jax.tree.leaves(params), strict=True)
    ]
    assert min(moved) > 1e-7


def head_of(params):
    """A part of the parameters, and the variables of the model from that part."""
    head = {"final_norm": jax.tree.map(lambda x: 2 * x, params["final_norm"])}
    return head, lambda part: {"params": {**params, **part}}


def test_a_part_is_trained_by_the_loss_of_the_whole_model(params):
    head, variables = head_of(params)
    loss = language_loss(CONFIG, GROUPS, variables=variables)
    gradient = jit_in_haste(jax.value_and_grad(loss, has_aux=True))
    (mean, aux), found = gradient(head, {}, make_batch(), None)
    whole = jit_in_haste(jax.value_and_grad(language_loss(CONFIG, GROUPS), has_aux=True))
    (expected, all_aux), of_all = whole({**params, **head}, {}, make_batch(), None)
    np.testing.assert_allclose(mean, expected, rtol=1e-6)
    assert abs(float(expected) - float(LOSS(params, {}, make_batch(), None)[0])) > 1e-3
    np.testing.assert_allclose(*(x.metrics["group_loss"].total for x in (aux, all_aux)), rtol=1e-6)
    assert jax.tree.structure(found) == jax.tree.structure(head)
    for a, b in zip(*map(jax.tree.leaves, (found, of_all["final_norm"])), strict=True):
        np.testing.assert_allclose(a, b, **CLOSE)


def test_an_evaluation_of_a_part_is_that_of_the_whole_model(params):
    """Adapters are such a part: what they change is measured, and what is frozen is not eaten."""
    head, variables = head_of(params)
    batches, mesh = [make_batch()], make_mesh()
    of_part = make_evaluate(CONFIG, batches, 2, mesh, variables=variables)
    of_all = make_evaluate(CONFIG, batches, 2, mesh)
    for part in (head, {}):
        for found, expected in zip(of_part(part), of_all({**params, **part}), strict=True):
            np.testing.assert_array_equal(found, expected)
    assert np.abs(of_part(head).loss - of_part({}).loss).max() > 1e-3
    config = replace(CONFIG, lora=LoRASpec(rank=2))
    lora = jax.tree.map(lambda x: x + 1, lora_init(config, params, jax.random.key(0)))
    with_lora = make_evaluate(
        config, batches, 2, mesh, variables=lambda part: {"params": params, "lora": part}
    )
    merged = of_all(lora_merge(config, params, lora))
    np.testing.assert_allclose(with_lora(lora).loss, merged.loss, rtol=1e-5)  # other sums
    assert np.abs(merged.loss - of_part({}).loss).max() > 1e-3


@pytest.fixture(scope="module")
def measured(bench):
    """Losses of the same validation windows in batches of 1, 4 and 5."""
    params, results = bench.fresh().params, {}
    for size in (1, 4, 5):
        batches = list(evaluation_batches(bench.groups.validation, size, 6))
        results[size] = make_evaluate(bench.config.model, batches, 2, make_mesh())(params), batches
    return params, results


def test_an_evaluation_does_not_depend_on_the_batch_size(measured):
    _, results = measured
    for size in (4, 5):  # 5: the last batch has 2 real rows and 3 that only fill it
        for one, other in zip(results[1][0], results[size][0], strict=True):
            np.testing.assert_allclose(other, one, rtol=1e-6)  # float32 row sums in other shapes


def test_an_evaluation_weighs_windows_alike_in_perplexity_and_tokens_in_bits(measured, bench):
    params, results = measured
    found, batches = results[4]
    assert {x.dtype for x in found} == {np.dtype("float64")}
    means, sums, counts = ([[], []] for _ in range(3))
    for batch in batches:
        token = np.asarray(TOKEN_LOSS(bench.config.model, {"params": params}, batch), np.float64)
        for g, loss, mask in zip(batch.group, token, batch.mask, strict=True):
            if mask.any():
                means[g].append((loss * mask).sum() / mask.sum())
                sums[g].append((loss * mask).sum())
                counts[g].append(mask.sum())
    assert len({count for group in counts for count in group}) > 1  # else both means are the same
    # 1e-6: row sums are float32.
    np.testing.assert_allclose(found.loss, [np.mean(m) for m in means], rtol=1e-6)
    nats = [np.sum(s) / np.sum(c) for s, c in zip(sums, counts, strict=True)]
    np.testing.assert_allclose(found.nats_per_token, nats, rtol=1e-6)
    np.testing.assert_array_equal(found.windows, [6, 6])
