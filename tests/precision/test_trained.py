"""What the methods are for: a trained model loses less by them than by rounding to nearest."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jlab.data import Batch
from jlab.nn import Transformer, cross_entropy, llama
from jlab.nn.formats import IntFormat
from jlab.precision import quantize_model

VOCAB, LENGTH = 32, 32
CONFIG = llama(d_model=32, layers=2, heads=4, d_ff=88, vocab_size=VOCAB)


def text(rows: int, seed: int) -> Batch:
    """A language whose next token hangs on the last two: what takes both layers to learn."""
    table = np.random.default_rng(0).dirichlet(np.full(VOCAB, 0.05), size=(VOCAB, 4))
    rng = np.random.default_rng(seed)
    tokens = rng.integers(VOCAB, size=(rows, LENGTH + 1))
    for t in range(2, LENGTH + 1):
        odds = table[tokens[:, t - 1], tokens[:, t - 2] % 4].cumsum(1)
        tokens[:, t] = (rng.random((rows, 1)) < odds).argmax(1)
    tokens = tokens.astype(np.int32)
    zeros = np.zeros((rows, LENGTH), np.int32)
    places = np.tile(np.arange(LENGTH, dtype=np.int32), (rows, 1))
    ones, ids = np.ones((rows, LENGTH), np.float32), np.arange(rows, dtype=np.int32)
    return Batch(tokens[:, :-1], tokens[:, 1:], ones, zeros, places, ids * 0, ids)


@jax.jit
def loss(params, tokens, targets):
    logits = Transformer(CONFIG).apply({"params": params}, tokens).logits
    return cross_entropy(logits, targets).mean()


@pytest.fixture(scope="module")
def trained():
    batch, optimizer = text(2048, 1), optax.adam(3e-3)
    params = Transformer(CONFIG).init(jax.random.key(0), batch.tokens[:1])["params"]

    @partial(jax.jit, donate_argnums=(0, 1))
    def step(params, state, tokens, targets):
        gradient = jax.grad(loss)(params, tokens, targets)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(params, updates), state

    state = optimizer.init(params)
    for i in range(400):
        rows = slice(i * 32 % 2048, i * 32 % 2048 + 32)
        params, state = step(params, state, batch.tokens[rows], batch.targets[rows])
    return params


@pytest.mark.slow
def test_calibration_lowers_the_loss_at_three_bits(trained):
    """One seed of one model: GPTQ at least a fifth less harm than rounding, AWQ no more than it."""
    held, calibration = text(256, 2), [text(64, 3)]
    whole = float(loss(trained, held.tokens, held.targets))
    assert whole < 2.2, "it has learned: a uniform guess has 3.47 nats"
    harm = {}
    for method, grid in (("rtn", "asym"), ("gptq", "asym"), ("awq", "awq_asym")):
        made = quantize_model(CONFIG, trained, calibration, method, IntFormat(3, grid))
        harm[method] = float(loss(made.params, held.tokens, held.targets)) - whole
    assert harm["rtn"] > 0
    assert harm["gptq"] < 0.8 * harm["rtn"]
    assert harm["awq"] < harm["rtn"]
    rough = quantize_model(CONFIG, trained, (), "rtn", IntFormat(8, "asym"))
    assert abs(float(loss(rough.params, held.tokens, held.targets)) - whole) < 0.1 * harm["rtn"]
    assert jnp.isfinite(whole)
