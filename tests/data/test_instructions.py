"""Instructions become windows in which answers with their ends are learned, and nothing else."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jlab.data import InstructionConfig, byte_tokenizer, file_tokenizer, load_instructions
from jlab.data.instructions import alpaca_prompt
from jlab.data.pack import make_batch
from jlab.data.tokenizer import EOS, train_bpe
from jlab.linearize.pack import pack_released

BYTES = byte_tokenizer()
SPLITS = ("train", "validation", "test")


def write(path, rows):
    """Rows as Alpaca's release has them: one list."""
    path.write_text(json.dumps(rows, indent=4))
    return str(path)


def row(instruction, output, context=""):
    return {"instruction": instruction, "input": context, "output": output}


def numbered(count):
    return [row(f"Say {n}.", f"It is {n}.") for n in range(count)]


def samples(packed, tokenizer=BYTES):
    """Every document as its ids before the answer, and the text and the last id of the answer."""
    found = []
    for first, last in zip(packed.starts, [*packed.starts[1:], len(packed.tokens)], strict=True):
        learned = packed.learned[first:last]
        assert (np.diff(learned.astype(int)) >= 0).all()  # the answer is the end of the document
        ids = packed.tokens[first:last]
        answer = ids[learned]
        found.append((ids[~learned].tolist(), tokenizer.decode(answer[:-1]), answer[-1]))
    return found


def test_both_forms_of_a_prompt_to_the_letter():
    assert alpaca_prompt("Name a {colour}.") == (
        "Below is an instruction that describes a task. Write a response that appropriately"
        " completes the request.\n"
        "\n"
        "### Instruction:\n"
        "Name a {colour}.\n"
        "\n"
        "### Response:\n"
    )
    assert alpaca_prompt("Add them.", "1 and {2}") == (
        "Below is an instruction that describes a task, paired with an input that provides further"
        " context. Write a response that appropriately completes the request.\n"
        "\n"
        "### Instruction:\n"
        "Add them.\n"
        "\n"
        "### Input:\n"
        "1 and {2}\n"
        "\n"
        "### Response:\n"
    )


@pytest.mark.parametrize("document_mask", [True, False])
def test_a_window_by_hand(document_mask, tmp_path):
    path = write(tmp_path / "a.json", [row("Say A.", "A")] * 6)
    prompt = list(alpaca_prompt("Say A.").encode())
    length = len(prompt) + 2  # one sample: prompt, answer, end
    groups = load_instructions(InstructionConfig(path, held_out=4), BYTES, length)
    batch = make_batch(groups.train, np.zeros(1, int), np.zeros(1, int), document_mask)
    np.testing.assert_array_equal(batch.tokens, [[*prompt, ord("A"), 256]])
    np.testing.assert_array_equal(batch.targets, [[*prompt[1:], ord("A"), 256, prompt[0]]])
    np.testing.assert_array_equal(batch.mask, [[0] * (len(prompt) - 1) + [1, 1, 0]])
    np.testing.assert_array_equal(batch.segment_ids, 0)


@pytest.mark.parametrize("document_mask", [True, False])
def test_attention_crosses_samples_only_where_documents_are_not_masked(document_mask, tmp_path):
    path = write(tmp_path / "a.json", numbered(20))
    groups = load_instructions(InstructionConfig(path, held_out=8), BYTES, 400)
    batch = make_batch(groups.train, np.zeros(1, int), np.zeros(1, int), document_mask)
    size = groups.train[0].starts[1]
    documents = np.arange(400) // size  # "Say 8.", "Say 9.": as long
    np.testing.assert_array_equal(batch.segment_ids[0], documents if document_mask else 0)
    expected = np.arange(400) % size if document_mask else np.arange(400)
    np.testing.assert_array_equal(batch.positions[0], expected)


TEXT = st.text(max_size=12)
ROWS = st.builds(row, TEXT.filter(str.strip), TEXT.filter(str.strip), TEXT | st.none())


@given(st.lists(ROWS, min_size=5, max_size=9), st.integers(2, 4), st.integers(1, 120))
def test_exactly_the_answers_and_their_ends_are_learned(tmp_path_factory, rows, held_out, length):
    path = write(tmp_path_factory.mktemp("rows") / "a.json", rows)
    groups = load_instructions(InstructionConfig(path, held_out=held_out), BYTES, length)
    expected = [
        (list(alpaca_prompt(r["instruction"], r["input"] or "").encode()), r["output"], 256)
        for r in rows
    ]
    (train,), (validation,), (test,) = (getattr(groups, split) for split in SPLITS)
    assert samples(train) == expected[held_out:]
    assert samples(validation) == expected[:held_out:2]
    assert samples(test) == expected[1:held_out:2]
    # Through the batch: whichever way documents are treated, what is learned is the answers.
    for document_mask in (True, False):
        ids = np.arange(len(train))
        batch = make_batch([train], np.zeros_like(ids), ids, document_mask)
        seen = slice(1, len(train) * length + 1)
        learned = train.tokens[seen][train.learned[seen]]
        np.testing.assert_array_equal(batch.targets[batch.mask == 1], learned)
        assert set(np.unique(batch.mask)) <= {0, 1}


def test_the_stream_is_the_one_that_the_release_cuts_into_windows(tmp_path):
    """There a window is dropped if none of its tokens is of an answer; here it stays."""
    path, length = write(tmp_path / "a.json", numbered(30)), 100
    (train,) = load_instructions(InstructionConfig(path, held_out=4), BYTES, length).train
    encoded = [(prompt, [*answer.encode(), end]) for prompt, answer, end in samples(train)]
    released = list(pack_released(encoded, length))
    tokens, learned = (
        x[: len(train) * length].reshape(-1, length) for x in (train.tokens, train.learned)
    )
    kept = learned.any(1)
    assert 0 < len(released) == kept.sum() < len(train)
    for window, row in zip(released, np.flatnonzero(kept), strict=True):
        np.testing.assert_array_equal(window, [tokens[row], learned[row]])


def test_an_input_may_be_missing_null_or_empty(tmp_path):
    rows = [{"instruction": "Do.", "output": "Done."}, row("Do.", "Done.", None), row("Do.", "No.")]
    path = write(tmp_path / "a.json", rows * 4)
    train = load_instructions(InstructionConfig(path, held_out=2), BYTES, 32).train[0]
    assert len(samples(train)) == 10
    assert {bytes(prompt).decode() for prompt, *_ in samples(train)} == {alpaca_prompt("Do.")}


def test_the_token_that_begins_a_text_is_put_before_prompts_only(tmp_path):
    from tokenizers import AddedToken, Tokenizer, processors

    rows = [row(f"Say {n}.", f"It is {EOS}{n}.", "now" * (n % 2)) for n in range(20)]
    train_bpe([alpaca_prompt(**{"instruction": "Say", "context": "it"})], 300, tmp_path / "t.json")
    model = Tokenizer.from_file(str(tmp_path / "t.json"))
    model.add_special_tokens([AddedToken("<s>", special=True)])
    begin = model.token_to_id("<s>")
    model.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", begin)])
    model.save(str(tmp_path / "t.json"))
    tokenizer = file_tokenizer(tmp_path / "t.json")
    config = InstructionConfig(write(tmp_path / "a.json", rows), held_out=4)
    (train,) = load_instructions(config, tokenizer, 16).train
    np.testing.assert_array_equal(np.flatnonzero(train.tokens == begin), train.starts)
    # Nor does a spelled-out end token end an answer: each sample has the one at its end.
    ends = np.flatnonzero(train.tokens == tokenizer.eos_id)
    np.testing.assert_array_equal(ends, [*(train.starts[1:] - 1), len(train.tokens) - 1])
    for (prompt, answer, _), given_row in zip(samples(train, tokenizer), rows[4:], strict=True):
        assert tokenizer.decode(prompt) == alpaca_prompt(
            *map(given_row.get, ("instruction", "input"))
        )
        assert answer == given_row["output"]


def test_rows_held_out_are_never_trained_on(tmp_path):
    groups = load_instructions(
        InstructionConfig(write(tmp_path / "a.json", numbered(300))), BYTES, 64
    )
    answers = {s: {text for _, text, _ in samples(getattr(groups, s)[0])} for s in SPLITS}
    assert answers["validation"] == {f"It is {n}." for n in range(0, 200, 2)}
    assert answers["test"] == {f"It is {n}." for n in range(1, 200, 2)}
    assert answers["train"] == {f"It is {n}." for n in range(200, 300)}


def test_counts_are_of_the_answers_so_that_bits_per_byte_are_theirs(tmp_path):
    path = write(tmp_path / "a.json", [row("Say it.", "äö")] * 20)
    groups = load_instructions(InstructionConfig(path, held_out=6), BYTES, 64)
    assert groups.names == ("instructions",)
    held_out = (3, 12, 15)  # documents, bytes, tokens: four bytes an answer, and an end
    sizes = {"train": (14, 56, 70), "validation": held_out, "test": held_out}
    assert groups.counts == {"instructions": sizes}
    assert groups.bytes_per_token("test").tolist() == [4 / 5]
    assert (groups.skipped, groups.notes, groups.remarks()) == ({}, (), [])


def test_fingerprints_change_with_what_is_learned_and_not_with_the_file(tmp_path):
    def prints(rows, name="a.jsonl", **fields):
        (tmp_path / name).write_text("".join(json.dumps(r) + "\n" for r in rows))
        config = InstructionConfig(str(tmp_path / name), held_out=4)
        return load_instructions(config, BYTES, 64, **fields).fingerprints

    rows = numbered(12)
    base = prints(rows)
    assert base.keys() == {"instructions", "tokenizer"}
    assert base["tokenizer"] == BYTES.fingerprint
    assert prints(rows, "b.json") == base
    changed = [rows[:-1], rows[::-1], [*rows[:-1], row("Say 11.", "No.")]]
    assert len({prints(other)["instructions"] for other in [rows, *changed]}) == 4


def test_progress_hears_of_every_byte(tmp_path, monkeypatch):
    monkeypatch.setattr("jlab.data.instructions._CHUNK", 3)
    path, said = write(tmp_path / "a.json", numbered(12)), []
    whole = load_instructions(
        InstructionConfig(path, held_out=4), BYTES, 64, lambda *x: said.append(x)
    )
    size = sum(
        len(getattr(whole, split)[0].tokens) - len(getattr(whole, split)[0].starts)
        for split in SPLITS
    )
    assert said[0] == ("reading instructions", 0)
    assert said[-1] == ("tokenising instructions", size)
    monkeypatch.undo()
    once = load_instructions(InstructionConfig(path, held_out=4), BYTES, 64)
    np.testing.assert_array_equal(once.train[0].tokens, whole.train[0].tokens)


WRONG = {
    "no file": (
        {"path": "no.json"},
        r"path must be a file or .*got 'no\.json', which is not there",
    ),
    "no path": ({"path": ""}, "path must be a file or a Hugging Face dataset .*; got nothing"),
    "another field": (
        {"output": "response"},
        r"a\.json: row 1: no field 'response'; the record has",
    ),
    "too many held out": ({"held_out": 12}, "held_out must be below the 12 rows of .*; got 12"),
    "too few to train on": (
        {"held_out": 11, "length": 300},
        "group 'instructions': its train split has 157 tokens of 1 documents, and one window of"
        " length 300 needs 301: add rows or lower length",
    ),
    "too few to validate on": (
        {"held_out": 2, "length": 300},
        r"its validation split has \d+ tokens of 1 documents, .* 301: raise held_out or lower",
    ),
    "no length": ({"length": 0}, "length must be at least 1; got 0"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_one_line(case, tmp_path):
    fields, says = WRONG[case]
    fields = {
        "path": write(tmp_path / "a.json", numbered(12)),
        "held_out": 4,
        "length": 64,
    } | fields
    length = fields.pop("length")
    with pytest.raises(ValueError, match=says) as caught:
        load_instructions(InstructionConfig(**fields), BYTES, length)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"output": ""}, "row 13: field 'output' is empty"),
        ({"instruction": " "}, "row 13: field 'instruction' is empty"),
        ({"input": 3}, "row 13: field 'input' must be a string, got int"),
        ({"output": None}, "row 13: field 'output' must be a string, got NoneType"),
    ],
)
def test_a_row_without_a_text_is_named(changes, says, tmp_path):
    path = write(tmp_path / "a.json", [*numbered(12), {**row("Say.", "So."), **changes}])
    with pytest.raises(ValueError, match=f"^path: .*a.json: {says}"):
        load_instructions(InstructionConfig(path, held_out=4), BYTES, 64)


def test_fewer_than_two_rows_cannot_be_held_out():
    with pytest.raises(ValueError, match=r"held_out must be at least 2, .*; got 1"):
        InstructionConfig("a.json", held_out=1)
