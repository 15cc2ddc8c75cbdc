"""A job draws exactly what its store lacks, and the same whatever was drawn before."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import pytest

from jlab.jobs import open_store
from jlab.sampling import Problem, SamplingConfig, draw_samples, generate, samples_of
from tests.sampling.tiny_job import (
    CONFIG,
    PROBLEMS,
    SAMPLING,
    SETTINGS,
    draw,
    letters,
    variables,
    without_rounding,
)


@pytest.fixture
def store(tmp_path):
    with open_store(tmp_path / "store", SETTINGS) as made:
        yield made


def test_the_rows_are_the_samplers(store):
    draw(store, 3)
    prompts = [problem.prompt for problem in PROBLEMS]
    settings = dataclasses.asdict(SAMPLING)
    key = jax.random.key(1)
    drawn = generate(CONFIG, variables(), prompts, key, 3, batch=4, **settings)
    for problem, samples in zip(PROBLEMS, drawn, strict=True):
        for row, sample in zip(samples_of(store)[problem.name], samples, strict=True):
            logprob = row.pop("logprob")
            assert row == {
                "problem": problem.name,
                "sample": sample.number,
                "text": letters(sample.tokens),
                "tokens": len(sample.tokens),
                "end": sample.end,
            }
            assert logprob == pytest.approx(float(sample.logprobs.sum()), rel=1e-6)  # float32 sums
    assert {row["end"] for rows in samples_of(store).values() for row in rows} == {"stop", "length"}


def test_samples_are_the_same_whatever_was_drawn_before(store, tmp_path):
    draw(store, 7)
    with open_store(tmp_path / "other", SETTINGS) as other:
        draw(other, 2, problems=PROBLEMS[:1])
        draw(other, 7, batch=3)
        assert without_rounding(other.rows()) == without_rounding(store.rows())


def test_a_job_that_is_done_draws_nothing(store, capsys):
    draw(store, 2)
    written = (store.folder / "0000.jsonl").read_bytes()
    assert re.fullmatch(
        r"sampling 6/6  [\d.,]+ samples/s  [\d,]+ tokens/s\n", capsys.readouterr().err
    )
    draw(store, 2)
    draw(store, 1)
    assert (store.folder / "0000.jsonl").read_bytes() == written
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 2},
        {"problems": [Problem("one", [3, 2, 1]), *PROBLEMS[1:]]},
        {"problems": PROBLEMS[::-1]},
    ],
)
def test_another_job_draws_its_own_and_may_not_share_the_store(change, store):
    draw(store, 2)
    before = store.count()
    draw(store, 2, **change)
    assert store.count() > before
    with pytest.raises(ValueError, match=r"sample \d of problem (one|three) twice, from jobs that"):
        samples_of(store)


def test_problems_come_in_the_order_of_their_names_and_samples_of_their_numbers(store):
    draw(store, 11)
    found = samples_of(store)
    assert list(found) == sorted(problem.name for problem in PROBLEMS)
    assert all([row["sample"] for row in rows] == list(range(11)) for rows in found.values())


def test_a_text_ends_right_before_its_first_stop_string(store, tmp_path):
    strings = ("hgh", "ij")  # tokens are letters, so that a string is made of several
    draw(store, 40, sampling=SamplingConfig(max_new_tokens=30, stop_strings=strings))
    with open_store(tmp_path / "whole", SETTINGS) as whole:
        draw(whole, 40, sampling=SamplingConfig(max_new_tokens=30))
        texts = [row["text"] for rows in samples_of(whole).values() for row in rows]
    rows = [row for rows in samples_of(store).values() for row in rows]
    for row, text in zip(rows, texts, strict=True):
        ends = [text.index(string) for string in strings if string in text]
        assert row["text"] == text[: min(ends, default=len(text))]
        assert row["end"] == ("stop" if ends else "length")
    assert 10 <= sum(row["end"] == "stop" for row in rows) <= 110


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n": 0}, "n_samples must be >= 1; got 0"),
        ({"problems": [PROBLEMS[0]] * 2}, "different names; got 'one' 2 times"),
        ({"problems": [Problem("none", [])]}, "prompt 0 must have at least one token"),
        ({"problems": [Problem("far", [11])]}, r"prompt 0 must have tokens in \[0, 11\)"),
        ({"batch": 0}, "batch must be >= 1; got 0"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_stored(change, message, store):
    with pytest.raises(ValueError, match=message):
        draw(store, **{"n": 2, **change})
    assert store.count() == 0


def test_a_model_that_is_not_finite_is_named(store):
    broken = jax.tree.map(lambda x: x * jnp.nan, variables())
    with pytest.raises(ValueError, match=r"log-probabilities after prompt \d must be finite"):
        draw_samples(
            store, CONFIG, broken, PROBLEMS, jax.random.key(0), 3, SAMPLING, decode=letters, batch=4
        )
    assert store.count() == 0
