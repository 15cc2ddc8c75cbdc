"""Tensors in safetensors files: one `model.safetensors`, or shards listed by an index.

Only safetensors are read: the other formats of released weights are pickles, which can run any
code when they are read. Headers are checked before any tensor is read, and tensors are read and
written one at a time, so that no second copy of a model is ever in memory.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import ml_dtypes
import numpy as np

from jlab.hub.fields import read_json

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
DTYPES = {
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
BYTES = {"U8": np.dtype(np.uint8)}  # of packed weights
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


class Stored(NamedTuple):
    """What a header says of a tensor."""

    file: Path
    dtype: str  # as in the file: "BF16"
    shape: tuple[int, ...]


def weight_files(folder: Path) -> list[str]:
    """Names of the files that hold the weights of a folder.

    Raises:
      FileNotFoundError, ValueError: there are none, or the index is damaged.
    """
    if (folder / SINGLE).is_file():
        return [SINGLE]
    if (folder / INDEX).is_file():
        return sorted(set(_weight_map(folder / INDEX).values()))
    refuse_pickles(folder, f"{SINGLE}, or shards with {INDEX}, are")
    raise FileNotFoundError(f"{folder}: neither {SINGLE} nor {INDEX}")


def refuse_pickles(folder: Path, read: str) -> None:
    """To be called where nothing that is read was found: says why a pickle is not."""
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES)
    if pickles:
        raise ValueError(
            f"{folder / pickles[0]} is a pickle, which can run code when it is read:"
            f" only {read} read"
        )


def stored_tensors(folder: Path) -> dict[str, Stored]:
    """Every tensor of a folder's files by name, from their headers.

    Raises:
      FileNotFoundError, ValueError: a file that is missing, damaged or at odds with the index.
    """
    stored: dict[str, Stored] = {}
    for file in weight_files(folder):
        if not (folder / file).is_file():
            raise FileNotFoundError(f"{folder}: no {file}, which {INDEX} names")
        for name, tensor in file_tensors(folder / file).items():
            if name in stored:
                raise ValueError(f"{folder / file}: {name} is also in {stored[name].file.name}")
            stored[name] = tensor
    if not (folder / SINGLE).is_file():
        for name, file in _weight_map(folder / INDEX).items():
            if name not in stored or stored[name].file.name != file:
                raise ValueError(f"{folder / file}: no tensor {name}, which {INDEX} puts there")
    return stored


def file_tensors(path: Path) -> dict[str, Stored]:
    """The tensors of one file by name; the library checks that they cover the file exactly.

    Raises:
      FileNotFoundError, ValueError: no such file, or it is damaged.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise FileNotFoundError(f"{path.parent}: no {path.name}")
    try:
        with safe_open(path, framework="np", backend="pread") as file:
            slices = {name: file.get_slice(name) for name in file.offset_keys()}
            return {
                name: Stored(path, part.get_dtype(), tuple(part.get_shape()))
                for name, part in slices.items()
            }
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged: {str(error).splitlines()[0]}") from error


def read_tensors(stored: Mapping[str, Stored]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the tensors one at a time, in the order of the files."""
    from safetensors import safe_open

    for path in sorted({tensor.file for tensor in stored.values()}):
        # pread: the pages of a mapped file would stay in memory until it is closed.
        with safe_open(path, framework="np", backend="pread") as file:
            for name in file.offset_keys():
                if name in stored:
                    yield name, file.get_tensor(name)


def write_file(
    path: Path,
    tensors: Iterable[np.ndarray],
    layout: Mapping[str, tuple[np.dtype, tuple[int, ...]]],
) -> None:
    """Write one safetensors file, taking the tensors one by one in the order of `layout`."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}  # `transformers` asks for it
    codes = {dtype: code for code, dtype in (DTYPES | BYTES).items()}
    end = 0
    for name, (dtype, shape) in layout.items():
        start, end = end, end + nbytes(dtype, shape)
        header[name] = {"dtype": codes[dtype], "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors:
            file.write(np.ascontiguousarray(tensor).reshape(-1).view(np.uint8).data)


def write_index(path: Path, files: Mapping[str, Sequence[str]], total: int) -> None:
    """Write the index of shards: file name -> names of its tensors; `total`: bytes in all."""
    where = {name: file for file, names in files.items() for name in names}
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(where.items()))}
    path.write_text(json.dumps(index, indent=2) + "\n")


def nbytes(dtype: np.dtype, shape: tuple[int, ...]) -> int:
    """Size of a tensor in bytes."""
    return dtype.itemsize * int(np.prod(shape, dtype=np.int64))


def _weight_map(path: Path) -> dict[str, str]:
    """Tensor -> file of an index; the files must lie beside it."""
    found = read_json(path).get("weight_map")
    if not isinstance(found, dict) or not found:
        raise ValueError(f"{path}: weight_map must map tensors to files; got {str(found)[:80]!r}")
    for name, file in found.items():
        plain = isinstance(file, str) and file == Path(file).name
        if not plain or not file.endswith(".safetensors"):
            raise ValueError(
                f"{path}: weight_map must name .safetensors files beside it;"
                f" got {file!r} for {name}"
            )
    return found
