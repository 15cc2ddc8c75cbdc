"""The nearest code: ties, parts, near codes, and what it is compared in."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jlab.vq import lookup as module
from jlab.vq import nearest
from jlab.vq.beam import beam_search
from jlab.vq.lookup import in_parts

RNG = np.random.default_rng(0)
CODES, TOKENS = (RNG.normal(size=(n, 5)).astype(np.float32) for n in (9, 23))


def by_differences(codes, tokens) -> np.ndarray:
    return ((tokens[:, None] - codes[None]) ** 2).sum(-1).argmin(1)


@pytest.mark.parametrize("precise", [False, True])
@pytest.mark.parametrize("scores", [1 << 20, 40])
def test_parts_give_what_the_whole_gives(monkeypatch, scores, precise):
    """40 scores at a time: four tokens of nine codes."""
    monkeypatch.setattr(module, "_SCORES", scores)
    ids, found = nearest(jnp.asarray(CODES), jnp.asarray(TOKENS), precise=precise)
    np.testing.assert_array_equal(ids, by_differences(CODES, TOKENS))
    np.testing.assert_array_equal(found, CODES[ids])


def test_parts_are_of_the_asked_size_and_in_order():
    sizes = []

    def double(part):
        sizes.append(len(part))
        return 2 * part

    np.testing.assert_array_equal(in_parts(double, jnp.asarray(TOKENS), 6), 2 * TOKENS)
    assert set(sizes) == {6}


def test_of_equals_the_lowest_is_taken():
    codes = jnp.array([[5.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    ids, _ = nearest(codes, jnp.array([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]]))
    assert ids.tolist() == [1, 1, 1]


def test_rows_of_zeros_tie_by_similarity():
    """A code without direction has similarity 0: it beats an opposite one."""
    codes = jnp.array([[-1.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    assert nearest(codes, jnp.array([[1.0, 0.0]]), unit=True)[0].tolist() == [1]


def test_near_codes_need_differences():
    """Codes 1e-4 apart at length 100: squares of 1e4 have steps of 1e-3 in float32."""
    steps = np.float32(100) + np.float32(1e-4) * np.arange(8, dtype=np.float32)
    codes = jnp.stack([jnp.asarray(steps), jnp.zeros(8)], axis=1)
    wanted = np.unique(steps, return_index=True)[1]
    ids, _ = nearest(codes, codes, precise=True)
    np.testing.assert_array_equal(np.unique(ids), wanted)
    assert len(np.unique(nearest(codes, codes)[0])) < len(wanted)


def test_bfloat16_tokens_are_compared_in_float32():
    """1 and 1 + 2^-9 are one number in bfloat16, and the token between them is above 1."""
    codes = jnp.array([[1.0], [1.0 + 2.0**-9]])
    ids, _ = nearest(codes, jnp.array([[1.0078125]], jnp.bfloat16))
    assert ids.tolist() == [1]


def test_float64_tells_more_codes_apart():
    """1e-6 apart: squares of one have steps of 2e-16, and of 1e-7 in float32."""
    with jax.enable_x64(True):
        codes = jnp.array([[1.0], [1.0 + 1e-6]])
        ids, found = nearest(codes, codes)
        assert ids.tolist() == [0, 1]
        assert found.dtype == jnp.float64


def test_other_values_than_the_compared_are_given():
    values = jnp.arange(18.0).reshape(9, 2)
    ids, found = nearest(jnp.asarray(CODES), jnp.asarray(TOKENS), values=values)
    np.testing.assert_array_equal(found, values[ids])


def test_a_beam_of_one_is_greedy_and_a_wider_one_no_worse_on_average():
    codes = RNG.normal(size=(3, 6, 4)).astype(np.float32)
    tokens = 1.5 * RNG.normal(size=(200, 4)).astype(np.float32)
    left, greedy = tokens, []
    for rows in codes:
        greedy.append(by_differences(rows, left))
        left = left - rows[greedy[-1]]

    def error(beam: int) -> float:
        ids = np.asarray(jax.jit(partial(beam_search, beam=beam))(codes, tokens))
        if beam == 1:
            np.testing.assert_array_equal(ids, np.stack(greedy, 1))
        found = sum(codes[level][ids[:, level]] for level in range(3))
        return float(((tokens - found) ** 2).sum(-1).mean())

    errors = [error(beam) for beam in (1, 4, 6**3)]
    assert errors[0] > errors[1] >= errors[2]
    every = (codes[0][:, None, None] + codes[1][:, None] + codes[2]).reshape(-1, 4)
    best = ((tokens[:, None] - every[None]) ** 2).sum(-1).min(1).mean()
    np.testing.assert_allclose(errors[2], best, rtol=1e-5)  # all sums kept: the best of them
