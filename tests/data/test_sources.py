"""How a group entry is spelled, and what identifies its content."""

import datasets
import pytest

from jlab.data.sources import HubSource, parse_group


def texts(source):
    return list(source.documents(pytest.fail))


def test_a_folder_is_read_in_the_order_of_its_paths_without_hidden_files(tmp_path):
    for name in ("b.txt", "a/z.txt", ".git/x.txt", ".hidden"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    assert texts(parse_group(f"g={tmp_path}", "text")[1]) == ["a/z.txt", "b.txt"]


def test_a_glob_chooses_among_files(tmp_path):
    for name in ("b.txt", "a.txt", "c.md"):
        (tmp_path / name).write_text(name)
    assert texts(parse_group(f"g={tmp_path}/*.txt", "text")[1]) == ["a.txt", "b.txt"]


def test_the_fingerprint_is_that_of_the_content_wherever_it_lies(tmp_path):
    def fingerprint(folder, content):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.txt").write_text(content)
        return parse_group(f"g={tmp_path / folder}", "text")[1].fingerprint()

    here = fingerprint("here", "same")
    assert here == fingerprint("there", "same")
    assert here != fingerprint("changed", "samE")


@pytest.mark.parametrize("where", ["nothing.jsonl", "none/*.txt", "~/no-such-folder-at-all/"])
def test_a_missing_file_names_group_and_path(tmp_path, monkeypatch, where):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError) as error:
        parse_group(f"mine={where}", "text")
    assert str(error.value) == f"group 'mine': {where}: no such file, folder or glob match"


def test_a_folder_without_files_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"group 'mine': .*: the folder has no files"):
        parse_group(f"mine={tmp_path}", "text")


@pytest.mark.parametrize("entry", ["stdlb", "=a.txt", "a=", "a b=c.txt", "../x=c.txt", ""])
def test_another_form_of_entry_is_refused_with_the_allowed_ones(entry):
    with pytest.raises(ValueError, match='must be "stdlib" or NAME=PATH or NAME=hf://DATASET'):
        parse_group(entry, "text")


def test_a_hugging_face_address_names_config_split_and_revision():
    name, source = parse_group("web=hf://owner/set?config=en&split=validation&revision=v1", "body")
    assert (name, source) == ("web", HubSource("owner/set", "body", "en", "validation", "v1"))
    assert parse_group("web=hf://set", "text")[1] == HubSource("set", "text", None, "train", None)


@pytest.mark.parametrize("address", ["hf://", "hf://a/b?name=en", "hf://a/b?split="])
def test_an_address_with_unknown_or_empty_parts_is_refused(address):
    with pytest.raises(ValueError, match=r"must be hf://DATASET\?config=C&split=S&revision=R"):
        parse_group(f"web={address}", "text")


def test_every_part_of_the_address_is_in_the_fingerprint():
    one = HubSource("a/b", "text")
    others = [HubSource("a/c", "text"), HubSource("a/b", "body"), HubSource("a/b", "text", "en")]
    others += [HubSource("a/b", "text", split="x"), HubSource("a/b", "text", revision="x")]
    assert len({source.fingerprint() for source in (one, *others)}) == 6


@pytest.fixture
def hub(monkeypatch):
    """Stands in for the hub: rows in; the arguments of each request to it out."""
    requests = []

    def serve(rows):
        def load_dataset(*args, **kwargs):
            requests.append((args, kwargs))
            return datasets.IterableDataset.from_generator(lambda: iter(rows))

        monkeypatch.setattr(datasets, "load_dataset", load_dataset)
        return requests

    return serve


def test_a_dataset_is_streamed_and_never_runs_its_own_code(hub):
    requests = hub([{"text": "one", "n": 1}, {"text": "", "n": 2}, {"text": "two", "n": 3}])
    source = parse_group("web=hf://owner/set?config=en&revision=v1", "text")[1]
    assert texts(source) == ["one", "two"]
    expected = {"split": "train", "revision": "v1", "streaming": True}
    assert requests == [(("owner/set", "en"), expected)]


def test_a_dataset_without_the_field_names_the_columns_it_has(hub):
    hub([{"content": "one", "n": 1}])
    with pytest.raises(ValueError, match=r"hf://set .*no field 'text'; .* are 'content', 'n'"):
        texts(HubSource("set", "text"))


def test_a_row_without_text_is_a_bad_record_by_number(hub):
    hub([{"text": "one"}, {"text": None}])
    problems = []
    assert list(HubSource("set", "text").documents(problems.append)) == ["one"]
    (problem,) = problems
    assert problem.startswith("hf://set (split 'train'): row 2: field 'text' must be a string")


def test_a_dataset_that_cannot_be_reached_is_one_line(monkeypatch):
    def load_dataset(*args, **kwargs):
        raise ConnectionError("Couldn't reach the Hub\nwith a second line")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(ValueError, match=r"cannot be streamed: Couldn't reach the Hub$"):
        texts(HubSource("owner/set", "text"))
