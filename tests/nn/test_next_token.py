"""One draw: the filters by hand, frequencies against probabilities, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from jlab.nn.next_token import SamplingConfig, kept_logits, next_token

# Probabilities 0.5, 0.25, 0.125, 0.125 at temperature 1.
LOGITS = jnp.log(jnp.array([[0.125, 0.5, 0.125, 0.25]]))


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ({}, [0, 1, 2, 3]),
        ({"temperature": 0.0}, [1]),
        ({"top_k": 1}, [1]),
        ({"top_k": 2}, [1, 3]),
        ({"top_k": 3}, [0, 1, 2, 3]),  # the two at the edge are equally likely: both stay
        ({"top_k": 9}, [0, 1, 2, 3]),
        ({"top_p": 0.5}, [1]),  # 0.5 is held by the first alone
        ({"top_p": 0.51}, [1, 3]),
        ({"top_p": 0.76}, [0, 1, 2, 3]),
        ({"min_p": 0.5}, [1, 3]),
        ({"min_p": 0.6}, [1]),
        ({"temperature": 0.5, "min_p": 0.3}, [1]),  # squared probabilities: 0.25 of the likeliest
        ({"top_k": 2, "top_p": 0.6}, [1]),  # of the two that are left the first holds 2/3
    ],
)
def test_the_filters_keep_what_they_say(settings, kept):
    logits = kept_logits(SamplingConfig(**settings), LOGITS)[0]
    assert np.flatnonzero(np.isfinite(logits)).tolist() == kept


@pytest.mark.parametrize(
    "settings",
    [{}, {"temperature": 0.7}, {"temperature": 1.6, "top_p": 0.8}, {"top_k": 5}, {"min_p": 0.2}],
)
def test_frequencies_are_the_probabilities(settings):
    """Chi-square, 20,000 draws; the seed is fixed, a correct sampler fails one seed in 1000."""
    config, draws = SamplingConfig(**settings), 20_000
    logits = jax.random.normal(jax.random.key(3), (1, 12)) * 1.5
    keys = jax.random.split(jax.random.key(0), draws)
    tokens, _ = jax.jit(next_token, static_argnums=0)(config, keys, jnp.tile(logits, (draws, 1)))
    p = np.asarray(jax.nn.softmax(kept_logits(config, logits)[0]), np.float64)
    counts = np.bincount(tokens, minlength=12)
    assert counts[p == 0].sum() == 0
    expected = draws * p[p > 0] / p.sum()
    assert stats.chisquare(counts[p > 0], expected).pvalue > 1e-3


@given(st.integers(0, 10_000), st.floats(1e-3, 30), st.integers(1, 40))
def test_a_token_that_is_filtered_out_is_never_drawn(seed, spread, k):
    """Also where the weights span so many decades that their sums round away."""
    config = SamplingConfig(top_k=k)
    logits = jax.random.normal(jax.random.key(seed), (7, 40)) * spread
    tokens, _ = next_token(config, jax.random.split(jax.random.key(seed + 1), 7), logits)
    kept = kept_logits(config, logits)
    assert np.isfinite(np.take_along_axis(np.asarray(kept), np.asarray(tokens)[:, None], 1)).all()


@pytest.mark.parametrize("temperature", [1e-3, 1e-38, 1e-40, 1e-300])
def test_the_coldest_temperatures_are_greedy(temperature):
    logits = jax.random.normal(jax.random.key(0), (50, 40)) * 10 + 5
    keys = jax.random.split(jax.random.key(1), 50)
    cold, greedy = (
        next_token(SamplingConfig(temperature=t), keys, logits) for t in (temperature, 0.0)
    )
    np.testing.assert_array_equal(cold[0], greedy[0])
    np.testing.assert_array_equal(cold[1], greedy[1])


def test_the_log_probability_is_the_models_whatever_is_kept():
    keys = jax.random.split(jax.random.key(0), 1)
    _, logprob = next_token(SamplingConfig(temperature=0.0), keys, LOGITS + 3)
    np.testing.assert_allclose(logprob, [np.log(0.5)], rtol=1e-6)


def test_a_rows_token_depends_on_its_own_key_and_logits_alone():
    keys, logits = (
        jax.random.split(jax.random.key(1), 5),
        jax.random.normal(jax.random.key(2), (5, 9)),
    )
    together, _ = next_token(SamplingConfig(), keys, logits)
    alone = [
        next_token(SamplingConfig(), keys[i : i + 1], logits[i : i + 1])[0][0] for i in range(5)
    ]
    assert together.tolist() == [int(t) for t in alone]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": -1.0}, "temperature must be >= 0 and finite; got -1.0"),
        ({"temperature": float("nan")}, "temperature must be >= 0 and finite; got nan"),
        ({"top_k": 0}, "top_k must be >= 1; got 0"),
        ({"top_k": 1.5}, "top_k must be a whole number; got 1.5"),
        ({"max_new_tokens": 2.5}, "max_new_tokens must be a whole number; got 2.5"),
        ({"max_new_tokens": None}, "max_new_tokens must be a whole number; got None"),
        ({"stop_tokens": [3]}, r"stop_tokens must be a tuple of whole numbers; got \[3\]"),
        ({"stop_tokens": ("a",)}, "stop_tokens must be a tuple of whole numbers; got"),
        ({"stop_strings": "Q:"}, "stop_strings must be a tuple of strings; got 'Q:'"),
        ({"stop_strings": (3,)}, "stop_strings must be a tuple of strings; got"),
        ({"top_p": 0.0}, r"top_p must be in \(0, 1\]; got 0.0"),
        ({"min_p": 1.5}, r"min_p must be in \(0, 1\]; got 1.5"),
        ({"max_new_tokens": 0}, "max_new_tokens must be >= 1; got 0"),
        ({"stop_strings": ("a", "")}, "stop_strings must not be empty"),
    ],
)
def test_what_cannot_be_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        SamplingConfig(**settings)
