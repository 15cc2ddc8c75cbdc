"""From a config to packed groups, through the cache, with every mistake named."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jlab.data import DataConfig, load_groups
from jlab.data.corpus import SPLITS, document_hash, split_of
from jlab.data.tokenizer import train_bpe


def tokens(groups):
    return {
        (name, split): packed.tokens.tolist()
        for split in SPLITS
        for name, packed in zip(groups.names, getattr(groups, split), strict=True)
    }


def files(folder):
    paths = sorted(Path(folder).rglob("*"))
    return {str(p.relative_to(folder)): p.read_bytes() for p in paths if p.is_file()}


def test_loading_again_reads_the_cache_and_gives_the_same(small):
    said = []
    first = load_groups(small(), lambda doing, done: said.append(doing))
    assert set(said) == {"reading plain", "reading other", "tokenising plain", "tokenising other"}
    said.clear()
    second = load_groups(small(), lambda doing, done: said.append(doing))
    assert not said
    assert tokens(first) == tokens(second)
    assert first.fingerprints == second.fingerprints
    assert first.counts == second.counts


def test_counts_add_up_and_bytes_per_token_follow(small):
    groups = load_groups(small())
    for name in groups.names:
        counts = groups.counts[name]
        assert sum(size.documents for size in counts.values()) == 300
        for size in counts.values():
            assert size.tokens == size.bytes + size.documents  # a byte a token, and an end each
    size = groups.counts["plain"]["validation"]
    assert groups.bytes_per_token("validation")[0] == size.bytes / size.tokens


def test_one_changed_line_changes_the_fingerprint_of_its_group_only(small, tmp_path):
    before = load_groups(small()).fingerprints
    config = small()
    path = tmp_path / "plain.jsonl"
    path.write_text(path.read_text().replace('document 7"', 'document seven"'))
    after = load_groups(config).fingerprints
    assert {name for name in before if before[name] != after[name]} == {"plain"}
    assert before["tokenizer"] == after["tokenizer"]


def test_the_trained_tokenizer_sees_training_text_only_and_is_kept(small, monkeypatch):
    said, seen = [], []

    def watched(texts, vocab_size, path):
        seen.extend(texts)
        train_bpe(seen, vocab_size, path)

    monkeypatch.setattr("jlab.data.groups.train_bpe", watched)
    config = small(tokenizer="bpe", vocab_size=300, validation_fraction=0.2, test_fraction=0.2)
    groups = load_groups(config, lambda doing, done: said.append(doing))
    assert said.count("training the tokenizer") == 1
    assert groups.tokenizer.kind == "bpe"
    assert 257 < groups.tokenizer.vocab_size <= 300
    assert {split_of(document_hash(text), 0.2, 0.2) for text in seen} == {"train"}
    assert len(seen) == sum(counts["train"].documents for counts in groups.counts.values())
    load_groups(config, lambda doing, done: pytest.fail(f"{doing} again"))


def test_a_tokenizer_file_is_used_as_it_is(small, tmp_path):
    trained = load_groups(small(tokenizer="bpe", vocab_size=300))
    (made,) = (tmp_path / "cache").rglob("tokenizer.json")
    copied = load_groups(small(tokenizer=str(made)))
    assert tokens(copied) == tokens(trained)
    assert copied.tokenizer.kind == "file"


def test_a_limit_takes_less_of_each_group(small):
    groups = load_groups(small(max_bytes_per_group=3000, length=8, validation_fraction=0.2))
    for name in groups.names:
        assert 2900 < sum(size.bytes for size in groups.counts[name].values()) <= 3000


@pytest.mark.parametrize("suffix", [".tokens", ".starts", ".text", ".sizes"])
def test_a_truncated_cache_file_is_made_again(small, tmp_path, suffix):
    first = tokens(load_groups(small()))
    before = files(tmp_path / "cache")
    damaged = sorted((tmp_path / "cache").rglob(f"train{suffix}"))[0]
    damaged.write_bytes(damaged.read_bytes()[:-3])
    assert tokens(load_groups(small())) == first
    assert files(tmp_path / "cache") == before


KILLED = """
import json, os, signal, sys
from jlab.data import DataConfig, load_groups
fields, stop = json.loads(sys.argv[1]), int(sys.argv[2])
calls = 0
def progress(doing, done):
    global calls
    calls += 1
    if calls == stop:
        os.kill(os.getpid(), signal.SIGKILL)
load_groups(DataConfig(**{**fields, "groups": tuple(fields["groups"])}), progress)
"""


@pytest.mark.parametrize("stop", [100, 601], ids=["reading", "tokenising"])
def test_killed_in_the_middle_a_rerun_gives_the_same_bytes(small, tmp_path, stop):
    fields = {**vars(small(cache_dir=str(tmp_path / "killed")))}
    command = [sys.executable, "-c", KILLED, json.dumps(fields), str(stop)]
    assert subprocess.run(command, check=False).returncode == -9
    load_groups(DataConfig(**fields))
    load_groups(small(cache_dir=str(tmp_path / "unbroken")))
    assert files(tmp_path / "killed") == files(tmp_path / "unbroken")


def test_a_damaged_line_is_an_error_or_is_counted(small, tmp_path):
    config = small()
    path = tmp_path / "other.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:4], '{"text": "cut', *lines[4:]]))
    with pytest.raises(
        ValueError, match=r"group 'other': .*other\.jsonl:5: not valid JSON"
    ) as error:
        load_groups(config)
    assert 'on_error "skip"' in str(error.value)
    skipping = DataConfig(**{**vars(config), "on_error": "skip"})
    assert load_groups(skipping).skipped == {"plain": 0, "other": 1}
    assert load_groups(skipping).skipped == {"plain": 0, "other": 1}  # from the cache too
    with pytest.raises(ValueError, match=r"jsonl:5"):  # what was skipped once is still an error
        load_groups(config)


def test_an_empty_group_is_named(small, jsonl):
    with pytest.raises(ValueError, match="group 'empty' is empty: its source has no text"):
        load_groups(small(groups=(f"empty={jsonl('empty', [])}",)))


@pytest.mark.parametrize("split", SPLITS)
def test_a_split_smaller_than_one_window_says_what_it_has_and_needs(
    small, jsonl, split, monkeypatch
):
    monkeypatch.setattr(
        "jlab.data.corpus.split_of",
        lambda document, *shares: split if document[8] < 3 else SPLITS[SPLITS.index(split) - 1],
    )
    monkeypatch.setattr("jlab.data.groups.SPLITS", (split,))
    path = jsonl("tiny", (f"number {n}" for n in range(300)))
    advice = {"train": "add text", "validation": "validation_fraction", "test": "test_fraction"}
    with pytest.raises(
        ValueError,
        match=rf"group 'tiny': its {split} split has \d+ tokens of \d documents, and one window of"
        rf" length 64 needs 65: .*{advice[split]}",
    ):
        load_groups(small(groups=(f"tiny={path}",), length=64))


def test_a_split_of_exactly_one_window_is_enough(small):
    counts = load_groups(small()).counts
    least = min(size.tokens for group in counts.values() for size in group.values())
    assert min(map(len, load_groups(small(length=least - 1)).test)) == 1
    with pytest.raises(ValueError, match=f"has {least} tokens .* length {least} needs {least + 1}"):
        load_groups(small(length=least))


def test_one_text_file_alone_cannot_be_split_and_says_so(small, tmp_path):
    (tmp_path / "book.txt").write_text("a long text " * 1000)
    with pytest.raises(ValueError, match=r"'book': its \w+ split has 0 tokens of 0 documents"):
        load_groups(small(groups=(f"book={tmp_path / 'book.txt'}",)))


def test_two_groups_of_one_name_are_refused(small):
    with pytest.raises(ValueError, match="groups: the name 'plain' is taken"):
        load_groups(small(groups=(small().groups[0],) * 2))


BAD_FIELDS = [
    ({"groups": ()}, "groups must name at least one group"),
    ({"length": 0}, "length must be at least 1; got 0"),
    ({"vocab_size": 256}, "vocab_size must be at least 257; got 256"),
    ({"max_bytes_per_group": 0}, "max_bytes_per_group must be at least 1; got 0"),
    ({"validation_fraction": 0.0}, "validation_fraction must be between 0 and 1; got 0.0"),
    ({"test_fraction": float("nan")}, "test_fraction must be between 0 and 1; got nan"),
    ({"validation_fraction": 0.5, "test_fraction": 0.5}, "must be under 1, .* got 0.5 [+] 0.5"),
    ({"on_error": "warn"}, 'on_error must be "raise" or "skip"; got \'warn\''),
]


@pytest.mark.parametrize(("fields", "message"), BAD_FIELDS, ids=[m[:25] for _, m in BAD_FIELDS])
def test_a_wrong_field_is_refused_when_the_config_is_made(fields, message):
    with pytest.raises(ValueError, match=message):
        DataConfig(**fields)


def test_tokens_are_mapped_from_the_file_and_not_copied(small):
    packed = load_groups(small()).train[0]
    assert isinstance(packed.tokens.base, np.memmap)
    assert packed.tokens.dtype == np.uint16
