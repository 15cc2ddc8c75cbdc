"""What is used and in which split follows from the text alone."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from jlab.data.corpus import (
    SPLITS,
    document_hash,
    read_corpus,
    select,
    split_of,
    used,
    write_corpus,
    write_tokens,
)
from jlab.data.tokenizer import byte_tokenizer

texts = st.lists(st.text(min_size=1), min_size=1, max_size=20)


def where(text, validation=0.2, test=0.1):
    return split_of(document_hash(text), validation, test)


def test_splits_have_their_shares():
    counts = dict.fromkeys(SPLITS, 0)
    for n in range(20_000):
        counts[where(f"document {n}")] += 1
    # Four standard deviations of a binomial share over 20,000 fixed documents are under 0.012.
    assert counts["validation"] / 20_000 == pytest.approx(0.2, abs=0.012)
    assert counts["test"] / 20_000 == pytest.approx(0.1, abs=0.012)


def test_the_split_of_a_text_never_changes():
    """Fixed by the salt: another answer would mix old test documents into training."""
    found = [where(f"document {n}") for n in range(30)]
    assert [n for n in range(30) if found[n] == "validation"] == [3, 14, 15, 29]
    assert [n for n in range(30) if found[n] == "test"] == [8, 9, 16, 23]


@given(texts, st.randoms())
def test_the_order_of_documents_moves_none_and_copies_stay_together(tmp_path_factory, docs, random):
    def splits(documents):
        folder = tmp_path_factory.mktemp("corpus")
        write_corpus(documents, folder, 0.3, 0.3, lambda size: None)
        return {split: sorted(read_corpus(folder, split)) for split in SPLITS}

    shuffled = docs.copy()
    random.shuffle(shuffled)
    assert splits(docs) == splits(shuffled)
    twice = splits(docs + docs)
    assert {s: sorted(set(t)) for s, t in twice.items()} == {
        s: sorted(set(t)) for s, t in splits(docs).items()
    }
    assert sum(map(len, twice.values())) == 2 * len(docs)
    assert not set(twice["train"]) & set(twice["validation"] + twice["test"])


@given(texts, st.integers(1, 40), st.randoms())
def test_the_choice_under_a_limit_ignores_the_order(docs, limit, random):
    shuffled = docs.copy()
    random.shuffle(shuffled)
    chosen = select(docs, limit)
    assert chosen == select(shuffled, limit)
    assert len(chosen) == 1 or sum(len(text.encode()) for text in chosen) <= limit


@given(texts, st.integers(1, 40))
def test_a_larger_limit_only_adds_documents(docs, limit):
    """As long as each document fits; one that does not is left out, and comes in later."""
    docs = [text for text in docs if len(text.encode()) <= limit]
    few, more = select(docs, limit), select(docs, 2 * limit)
    assert more[: len(few)] == few


@given(texts, st.integers(1, 40))
def test_a_document_too_large_for_the_limit_pushes_out_no_other(docs, limit):
    small = [text for text in docs if len(text.encode()) <= limit]
    assume(small)
    assert select([*docs, "x" * (limit + 1)], limit) == select(small, limit)


def test_the_choice_says_nothing_about_the_split():
    """Order and split come from different bytes of the hash: a choice keeps the shares."""
    chosen = select((f"document {n:05}" for n in range(10_000)), 14 * 2000)
    shares = [where(text) for text in chosen]
    assert len(chosen) == 2000
    # Four standard deviations of a 20 % share over 2,000 fixed documents are 0.036.
    assert shares.count("validation") / 2000 == pytest.approx(0.2, abs=0.036)


def test_a_stream_is_read_only_as_far_as_needed():
    read = []
    endless = (read.append(n) or f"{n:010}" for n in range(10**9))
    chosen = used(endless, max_bytes=100, streamed=True)
    assert len(chosen) == 10
    assert len(read) == 40


@given(texts)
def test_a_corpus_reads_back_and_its_tokens_spell_it(tmp_path_factory, docs):
    folder, tokens = tmp_path_factory.mktemp("text"), tmp_path_factory.mktemp("tokens")
    facts = write_corpus(docs, folder, 0.3, 0.3, lambda size: None)
    written = write_tokens(folder, tokens, byte_tokenizer(), lambda size: None)
    for split in SPLITS:
        mine = [text for text in docs if where(text, 0.3, 0.3) == split]
        assert list(read_corpus(folder, split)) == mine
        size = sum(len(text.encode()) for text in mine)
        assert facts["counts"][split] == [len(mine), size]
        assert written[split] == size + len(mine)
        ids = np.fromfile(tokens / f"{split}.tokens", np.uint16)
        starts = np.fromfile(tokens / f"{split}.starts", np.int64)
        pieces = np.split(ids, starts[1:]) if mine else []
        assert [bytes(piece[:-1].tolist()).decode() for piece in pieces] == mine
        assert all(piece[-1] == 256 for piece in pieces)
