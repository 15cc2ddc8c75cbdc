"""Probabilities of answers by teacher forcing, against sums to one, samples and plain formulas."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jlab.nn import Transformer, llama
from jlab.sampling import generate
from jlab.sampling.exact import answer_probability, exact_curves

VOCABULARY = 6
CONFIG = llama(d_model=16, layers=1, heads=2, d_ff=24, vocab_size=VOCABULARY)
VARIABLES = jax.tree.map(
    lambda x: 8 * x, Transformer(CONFIG).init(jax.random.key(0), jnp.array([[1]]))
)


@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_the_answers_of_one_length_share_all_probability(temperature):
    answers = list(itertools.product(range(VOCABULARY), repeat=2))
    p = answer_probability(
        CONFIG, VARIABLES, [[1, 2]] * len(answers), answers, temperature=temperature
    )
    assert p.sum() == pytest.approx(1, abs=1e-5)  # float32 sums of 36 numbers
    assert p.max() > 2 / len(answers), "no uniform distribution, which would prove little"


def test_a_sample_has_the_probability_that_the_sampler_reports():
    prompts = [[1, 2, 3], [4]]
    samples = generate(CONFIG, VARIABLES, prompts, jax.random.key(1), 3, max_new_tokens=4)
    pairs = [
        (prompt, sample.tokens.tolist(), sample.logprobs.sum())
        for prompt, drawn in zip(prompts, samples, strict=True)
        for sample in drawn
    ]
    asked, answers, logs = zip(*pairs, strict=True)
    # Two float32 programs, with a cache and without.
    np.testing.assert_allclose(
        np.log(answer_probability(CONFIG, VARIABLES, asked, answers)), logs, atol=1e-4
    )


def test_rows_do_not_depend_on_their_batch():
    prompts, answers = [[1], [2, 3], [4, 5, 1]], [[2, 3], [1], [5, 5, 5]]
    together = answer_probability(CONFIG, VARIABLES, prompts, answers)
    alone = answer_probability(CONFIG, VARIABLES, prompts, answers, batch=1)
    np.testing.assert_allclose(together, alone, rtol=1e-4)  # float32, other matrix shapes


def test_no_problems_have_no_probabilities():
    assert answer_probability(CONFIG, VARIABLES, [], []).shape == (0,)


def test_curves_by_hand():
    # 1 - 0.5^k, certainty, impossibility; a rate below the spacing of floats near 1.
    curves = exact_curves(np.array([0.5, 1.0, 0.0, 1e-20]), np.array([1, 2, 10]))
    expected = [[0.5, 0.75, 1 - 2.0**-10], [1, 1, 1], [0, 0, 0], [1e-20, 2e-20, 1e-19]]
    np.testing.assert_allclose(curves, expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("prompts", "temperature", "message"),
    [([[1]], 0.0, "temperature must be > 0; got 0.0"), ([[]], 1.0, "prompts must hold at least")],
)
def test_what_has_no_probability_is_refused(prompts, temperature, message):
    with pytest.raises(ValueError, match=message):
        answer_probability(CONFIG, VARIABLES, prompts, [[1]], temperature=temperature)
