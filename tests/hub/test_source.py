"""Folders and hub ids; the hub is a cache made here, since tests have no network."""

import shutil
from fnmatch import fnmatch

import huggingface_hub
import pytest
from huggingface_hub import constants

from jlab.hub import load_hf, local_folder
from tests.hub.models import CONFIGS, folder_of, random_params, same_bits

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The user's cache as the library lays it out, with one repository in it."""
    repository = tmp_path / "cache" / "models--someone--tiny"
    folder_of(repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return repository


def test_a_hub_id_is_read_from_the_cache_without_a_network(cache):
    config, params = load_hf("someone/tiny")
    assert config == CONFIGS["llama"]
    assert same_bits(params, random_params(config))
    assert same_bits(load_hf("someone/tiny", revision=COMMIT)[1], params)


def test_a_hub_id_that_cannot_be_fetched_is_named_in_one_line(cache):
    for name, revision in (("someone/else", None), ("someone/tiny", "v9")):
        with pytest.raises(ValueError, match=f"no folder '{name}' here, and the Hugging") as error:
            load_hf(name, revision=revision)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("shard", [10**9, 3000])
def test_only_the_files_that_are_read_are_fetched(tmp_path, monkeypatch, shard):
    """Repositories hold weights in several formats; the second call stays on the commit."""
    hub = folder_of(tmp_path / "hub", max_shard_bytes=shard)
    for name in ("pytorch_model.bin", "consolidated.safetensors", "tokenizer.model"):
        (hub / name).write_bytes(b"")
    here, asked = tmp_path / COMMIT, []

    def download(repo_id, *, revision, allow_patterns):
        asked.append((repo_id, revision))
        here.mkdir(exist_ok=True)
        for path in hub.iterdir():
            if any(fnmatch(path.name, pattern) for pattern in allow_patterns):
                shutil.copy(path, here)
        return str(here)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert same_bits(load_hf("someone/tiny")[1], random_params(CONFIGS["llama"]))
    assert asked == [("someone/tiny", None), ("someone/tiny", COMMIT)]
    left = {path.name for path in hub.iterdir()} - {path.name for path in here.iterdir()}
    assert left == {"pytorch_model.bin", "consolidated.safetensors"}
    asked.clear()
    assert local_folder("someone/tiny") == here  # settings only: one call
    assert asked == [("someone/tiny", None)]


def test_what_is_neither_a_folder_nor_a_hub_id_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    for source in (tmp_path / "file", tmp_path / "nothing", "a/b/c", "", "./tiny"):
        with pytest.raises(
            FileNotFoundError, match='a folder or a hub id such as "owner/name"; got'
        ):
            load_hf(source)


def test_a_folder_has_no_revision(tmp_path):
    with pytest.raises(ValueError, match="revision is for hub ids only; got 'main' for folder"):
        load_hf(tmp_path, revision="main")
