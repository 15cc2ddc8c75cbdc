"""Three kinds of tokenizer behind one interface."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jlab.data.tokenizer import (
    EOS,
    byte_tokenizer,
    file_tokenizer,
    folder_tokenizer,
    train_bpe,
)

TEXTS = [f"the cat number {n} sat on the mat" for n in range(200)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    path = tmp_path_factory.mktemp("bpe") / "tokenizer.json"
    train_bpe(TEXTS, 400, path)
    return path


@given(st.text())
def test_bytes_give_back_any_text(text):
    tokenizer = byte_tokenizer()
    (ids,) = tokenizer.encode_batch([text])
    assert ids.tolist() == list(text.encode())
    assert tokenizer.decode([*ids, tokenizer.eos_id]) == text


@given(st.text())
def test_the_trained_tokenizer_gives_back_any_text(trained, text):
    tokenizer = file_tokenizer(trained)
    (ids,) = tokenizer.encode_batch([text])
    assert tokenizer.decode(ids) == text
    assert ids.dtype == np.uint16
    assert ids.max(initial=0) < tokenizer.vocab_size


def test_training_is_deterministic_and_shortens_text(trained, tmp_path):
    train_bpe(TEXTS, 400, tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == trained.read_bytes()
    tokenizer = file_tokenizer(trained, kind="bpe")
    assert tokenizer.kind == "bpe"
    assert len(tokenizer.encode_batch(TEXTS[:1])[0]) < len(TEXTS[0]) / 2


def test_a_document_that_spells_the_end_token_does_not_end(trained):
    tokenizer = file_tokenizer(trained)
    (ids,) = tokenizer.encode_batch([f"before{EOS}after"])
    assert tokenizer.eos_id not in ids
    assert tokenizer.decode(ids) == f"before{EOS}after"


def test_a_prompt_may_name_special_tokens(trained):
    tokenizer = file_tokenizer(trained)
    (ids,) = tokenizer.encode_prompts([f"before{EOS}after"])
    assert ids.tolist().count(tokenizer.eos_id) == 1
    assert ids.dtype == np.uint16
    before, after = tokenizer.encode_batch(["before", "after"])
    assert ids.tolist() == [*before, tokenizer.eos_id, *after]
    (ids,) = tokenizer.encode_batch([f"before{EOS}after"])  # documents still may not
    assert tokenizer.eos_id not in ids


@given(st.text())
def test_bytes_have_no_special_tokens_to_name(text):
    tokenizer = byte_tokenizer()
    (prompt,), (document,) = tokenizer.encode_prompts([text]), tokenizer.encode_batch([text])
    np.testing.assert_array_equal(prompt, document)


def test_a_prompt_gets_the_frame_of_its_tokenizer_unless_it_has_one(trained, tmp_path):
    from tokenizers import Tokenizer, processors

    model = Tokenizer.from_file(str(trained))
    model.post_processor = processors.TemplateProcessing(
        single=f"{EOS} $A", special_tokens=[(EOS, model.token_to_id(EOS))]
    )
    model.save(str(tmp_path / "framed.json"))
    tokenizer = file_tokenizer(tmp_path / "framed.json")
    (text,) = tokenizer.encode_batch(["the cat"])
    (framed,), (bare,) = (tokenizer.encode_prompts(["the cat"], framed=f) for f in (True, False))
    assert framed.tolist() == [tokenizer.eos_id, *text]
    assert bare.tolist() == text.tolist()


@pytest.mark.parametrize("token", ["<stop>", {"content": "<stop>", "special": True}])
def test_a_folder_names_its_end_token(trained, tmp_path, token):
    (tmp_path / "tokenizer.json").write_text(trained.read_text().replace(EOS, "<stop>"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": token}))
    named = file_tokenizer(tmp_path / "tokenizer.json", "<stop>")
    assert folder_tokenizer(tmp_path).fingerprint == named.fingerprint
    with pytest.raises(ValueError, match=r"tokenizer\.json has none of '<end>'"):
        folder_tokenizer(tmp_path, "<end>")


def test_a_folder_that_names_no_end_token_is_searched_for_the_usual_ones(trained, tmp_path):
    (tmp_path / "tokenizer.json").write_text(trained.read_text())
    assert folder_tokenizer(tmp_path).fingerprint == file_tokenizer(trained).fingerprint
    for text in ("[]", "{"):
        (tmp_path / "tokenizer_config.json").write_text(text)
        with pytest.raises(ValueError, match=r"tokenizer_config\.json is not a JSON object"):
            folder_tokenizer(tmp_path)


def test_the_end_token_is_found_by_its_usual_names_or_named(trained, tmp_path):
    other = tmp_path / "other.json"
    other.write_text(trained.read_text().replace(EOS, "<stop>"))
    with pytest.raises(ValueError, match=r"eos_token: .*other\.json has none of .*'</s>'"):
        file_tokenizer(other)
    assert file_tokenizer(other, "<stop>").eos_id == file_tokenizer(trained).eos_id
    with pytest.raises(ValueError, match=r"has none of '<end>'; name its token that ends"):
        file_tokenizer(other, "<end>")


def test_padding_and_truncation_of_the_file_are_not_applied(trained, tmp_path):
    from tokenizers import Tokenizer

    model = Tokenizer.from_file(str(trained))
    model.enable_truncation(3)
    model.enable_padding(length=50)
    model.save(str(tmp_path / "cut.json"))
    whole = file_tokenizer(trained).encode_batch(TEXTS[:2])
    cut = file_tokenizer(tmp_path / "cut.json").encode_batch(TEXTS[:2])
    assert [ids.tolist() for ids in whole] == [ids.tolist() for ids in cut]


def test_the_vocabulary_size_counts_up_to_the_largest_id(tmp_path):
    from tokenizers import Tokenizer, models

    path = str(tmp_path / "sparse.json")
    Tokenizer(models.WordLevel({"a": 0, "b": 70_000, "</s>": 5}, unk_token="a")).save(path)
    tokenizer = file_tokenizer(tmp_path / "sparse.json")
    assert (tokenizer.vocab_size, tokenizer.eos_id) == (70_001, 5)
    assert tokenizer.encode_batch(["b"])[0].dtype == np.uint32


def test_the_fingerprint_changes_with_the_file_and_the_end_token(trained, tmp_path):
    changed = tmp_path / "changed.json"
    changed.write_text(trained.read_text() + "\n")
    prints = {file_tokenizer(trained).fingerprint, file_tokenizer(changed).fingerprint}
    assert len(prints | {byte_tokenizer().fingerprint}) == 3


def test_a_file_that_is_missing_or_something_else_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match='tokenizer must be "bytes", "bpe" or the path'):
        file_tokenizer(tmp_path / "bep")
    (tmp_path / "t.json").write_text('{"a": 1}')
    with pytest.raises(ValueError, match=r"tokenizer: .*t\.json is not a tokenizer\.json: "):
        file_tokenizer(tmp_path / "t.json")


@pytest.mark.parametrize("kind", ["bytes", "bpe"])
def test_a_saved_tokenizer_gives_the_same_ids(kind, tmp_path):
    texts = ["plain text", "  spaces\n\tand é ü 漢字 🙂", "", EOS]
    made = byte_tokenizer()
    if kind == "bpe":
        train_bpe(texts * 4, 300, tmp_path / "bpe.json")
        made = file_tokenizer(tmp_path / "bpe.json")
    made.save(tmp_path / "tokenizer.json")
    again = file_tokenizer(tmp_path / "tokenizer.json")
    assert (again.vocab_size, again.eos_id) == (made.vocab_size, made.eos_id)
    for text in texts:
        ids = made.encode_batch([text])[0]
        np.testing.assert_array_equal(again.encode_batch([text])[0], ids)
        assert again.decode(ids) == made.decode(ids) == text
