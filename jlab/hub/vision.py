"""Weights of published vision networks: one safetensors file with the names that torch gives.

Such networks are published as pickles, which can run code when they are read, so that whoever has
torch turns them into a safetensors file, once. For the perceptual loss (`jlab.vq.perceptual`), with
`torchvision` and `lpips` installed:

    import lpips, torchvision
    from safetensors.torch import save_file
    tensors = torchvision.models.vgg16(weights="IMAGENET1K_V1").state_dict()
    heads = lpips.LPIPS(net="vgg").state_dict()
    tensors |= {f"lin{i}.model.1.weight": heads[f"lin{i}.model.1.weight"] for i in range(5)}
    save_file(tensors, "lpips.safetensors")

and for the features of the Frechet distance (`jlab.vq.inception`), with `pytorch-fid` installed:

    from pytorch_fid.inception import fid_inception_v3
    from safetensors.torch import save_file
    save_file(fid_inception_v3().state_dict(), "inception.safetensors")

Tensors of the file that are not asked for are not read.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from jlab.hub.files import DTYPES, PICKLES, file_tensors, read_tensors


def load_vision(path: str | Path, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """The tensors named in `shapes`, in float32, as they lie in the file.

    Args:
      path: a safetensors file.
      shapes: shape of each tensor in torch's layout, by torch's name.

    Raises:
      FileNotFoundError: no such file.
      ValueError: a pickle, a damaged file, or a tensor that is missing, of another shape or type;
        one line that names it.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not a file")
    if path.suffix in PICKLES:
        raise ValueError(
            f"{path} is a pickle, which can run code when it is read: where that may be, save its"
            " tensors with safetensors.torch.save_file (help(jlab.hub.vision) shows how) and give"
            " that file"
        )
    stored = file_tensors(path)
    missing = [name for name in shapes if name not in stored]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ValueError(f"{path}: no tensor {missing[0]}{more}")
    for name, shape in shapes.items():
        found = stored[name]
        if found.shape != shape:
            raise ValueError(f"{path}: {name} must have shape {shape}; got {found.shape}")
        if found.dtype not in DTYPES:
            raise ValueError(
                f"{path}: {name} must be of type {', '.join(DTYPES)}; got {found.dtype}"
            )
    wanted = {name: stored[name] for name in shapes}
    return {name: tensor.astype(np.float32) for name, tensor in read_tensors(wanted)}


def as_kernel(weight: np.ndarray) -> np.ndarray:
    """Torch's weight as our kernel: [out, in, h, w] -> [h, w, in, out]; [out, in] -> [in, out].

    A bias stays as it is.
    """
    return weight.transpose(2, 3, 1, 0) if weight.ndim == 4 else weight.T


def weight_shape(kernel: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of torch's weight for a kernel of ours: the inverse of `as_kernel`."""
    return (kernel[-1], kernel[-2], *kernel[:-2])
