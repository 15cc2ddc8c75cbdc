"""Where the tensors of a packed folder belong in our tree, and what they must be."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jlab.hub import tensors
from jlab.hub.files import BYTES, DTYPES, SINGLE, Stored
from jlab.hub.packed_kernel import Kernel, layouts
from jlab.nn import TransformerConfig, unstacked_names


class Part(NamedTuple):
    """One layer's part of a parameter; outside the blocks there is no row."""

    path: tensors.Keys
    row: int | None
    shape: tuple[int, ...]

    @property
    def kernel(self) -> bool:
        """Whether it is one that can be packed."""
        return self.path[-1] in ("kernel", "embedding")

    @property
    def size(self) -> tuple[int, ...]:
        """Inputs and outputs of a kernel."""
        return self.shape[::-1] if self.path[-1] == "embedding" else self.shape

    def turned(self, array: np.ndarray) -> np.ndarray:
        """As a kernel, or back."""
        return array.T if self.path[-1] == "embedding" else array


class Expected(NamedTuple):
    """A tensor of the folder."""

    dtypes: tuple[np.dtype, ...]  # that it may have
    shape: tuple[int, ...]


def parts_of(config: TransformerConfig) -> dict[str, Part]:
    """Every layer's part of every parameter by its name, from the embedding on."""
    found = {}
    for path, leaf in sorted(tensors.param_shapes(config).items()):
        stacked = path[0] == "blocks"
        for row, name in enumerate(unstacked_names(config, path)):
            found[name] = Part(path, row if stacked else None, leaf.shape[int(stacked) :])
    return found


def leaf_name(kernel: str) -> str:
    """Name of the parameter that a kernel is."""
    return f"{kernel}.embedding" if kernel == "embed" else f"{kernel}.kernel"


def layout(parts: Mapping[str, Part], described: Mapping[str, Kernel]) -> dict[str, Expected]:
    """Every tensor of a folder by name, in order."""
    kernels, found = {leaf_name(name): name for name in described}, {}
    for name, part in parts.items():
        if name not in kernels:
            found[name] = Expected(tuple(DTYPES.values()), part.shape)
            continue
        for end, own in layouts(described[kernels[name]], part.size).items():
            found[f"{kernels[name]}.{end}"] = Expected(*own)
    return found


def check_tensors(
    folder: Path,
    stored: Mapping[str, Stored],
    parts: Mapping[str, Part],
    described: Mapping[str, Kernel],
) -> None:
    """Every tensor is there, of the right shape and type, and no other is.

    Raises:
      ValueError: one line that names the file and the tensor.
    """
    expected = layout(parts, described)
    for name in sorted(set(expected) - set(stored)):
        raise ValueError(f"{folder / SINGLE}: no tensor {name}, which config.json asks for")
    codes = {dtype: code for code, dtype in (DTYPES | BYTES).items()}
    for name, tensor in stored.items():
        if name not in expected:
            raise ValueError(f"{tensor.file}: {name} is no tensor of this packed model")
        dtypes, shape = expected[name]
        allowed = [codes[dtype] for dtype in dtypes]
        if tensor.dtype not in allowed:
            raise ValueError(
                f"{tensor.file}: {name} must be of type {', '.join(allowed)}; got {tensor.dtype}"
            )
        if tensor.shape != shape:
            raise ValueError(
                f"{tensor.file}: {name} must have shape {shape}, by config.json; got {tensor.shape}"
            )
