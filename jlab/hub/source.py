"""Where a released model is: a folder, or a repository of the Hugging Face hub."""

import re
from pathlib import Path

from jlab.hub.files import INDEX, SINGLE, weight_files

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
# Settings, tokenizer, chat template and the index of the weights.
_SMALL = ("*.json", "*.jinja", "tokenizer.model")


def local_folder(source: str | Path, revision: str | None = None, *, weights: bool = False) -> Path:
    """The folder of a released model; what a hub id names is fetched into the user's cache.

    Args:
      source: a folder, or a hub id such as "EleutherAI/pythia-70m".
      revision: branch, tag or commit of a hub id; None: its main branch.
      weights: fetch the safetensors files as well.

    Raises:
      FileNotFoundError, ValueError: neither a folder nor a hub id, or it cannot be fetched.
    """
    folder = Path(source).expanduser()
    if str(source) and folder.is_dir():
        if revision is not None:
            raise ValueError(f"revision is for hub ids only; got {revision!r} for folder {folder}")
        return folder
    if not _HUB_ID.fullmatch(str(source)) or folder.exists():
        raise FileNotFoundError(
            f'source must be a folder or a hub id such as "owner/name"; got {str(source)!r}'
        )
    folder = _fetch(str(source), revision, _SMALL)
    if weights:
        # The folder is named by the commit, so that both calls see the same one.
        names = weight_files(folder) if (folder / INDEX).is_file() else [SINGLE]
        folder = _fetch(str(source), folder.name, (*_SMALL, *names))
    return folder


def _fetch(hub_id: str, revision: str | None, patterns: tuple[str, ...]) -> Path:
    import huggingface_hub

    try:
        return Path(
            huggingface_hub.snapshot_download(
                hub_id, revision=revision, allow_patterns=list(patterns)
            )
        )
    except Exception as error:  # network, address, access: the library raises many kinds
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"source: no folder {hub_id!r} here, and the Hugging Face hub says: {reason}"
        ) from error
