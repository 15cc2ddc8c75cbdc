"""Data: text or images in named groups become batches of tokens or pixels in any proportions.

Documents come from files, Hugging Face datasets or the running Python. They are split by the hash
of their text, tokenised once into local files, packed into windows that remember their documents,
and drawn by a loader whose whole state is two small arrays:

    >>> import tempfile, pathlib, numpy as np
    >>> folder = tempfile.TemporaryDirectory()
    >>> for name in ("odd", "even"):
    ...     lines = (f'{{"text": "{name} number {n}"}}' for n in range(500))
    ...     _ = pathlib.Path(folder.name, f"{name}.jsonl").write_text("\\n".join(lines))
    >>> files = tuple(f"{name}={folder.name}/{name}.jsonl" for name in ("odd", "even"))
    >>> groups = load_groups(DataConfig(files, tokenizer="bytes", length=64, cache_dir=folder.name))
    >>> loader = MixtureLoader(groups.train, batch_size=8, seed=0)
    >>> for batch, state in loader.batches(loader.init(), np.array([0.75, 0.25]), steps=2):
    ...     print(batch.tokens.shape, state.drawn)
    (8, 64) [6 2]
    (8, 64) [12  4]
    >>> folder.cleanup()

Images are read the same way: `ImageConfig`, `load_images`, `ImageLoader`.
"""

from jlab.data.batch import Batch
from jlab.data.groups import DataConfig, Groups, load_groups
from jlab.data.image_config import ImageConfig
from jlab.data.image_loader import ImageBatch, ImageLoader, image_evaluation_batches
from jlab.data.image_set import ImageSet, evaluation_images
from jlab.data.images import Images, load_images
from jlab.data.instructions import InstructionConfig, load_instructions
from jlab.data.loader import LoaderState, MixtureLoader, assign
from jlab.data.pack import Packed, evaluation_batches, make_batch, pack
from jlab.data.repeat import REPEATS, repeated, with_repeats
from jlab.data.tokenizer import Tokenizer, byte_tokenizer, file_tokenizer, folder_tokenizer

__all__ = [
    "REPEATS",
    "Batch",
    "DataConfig",
    "Groups",
    "ImageBatch",
    "ImageConfig",
    "ImageLoader",
    "ImageSet",
    "Images",
    "InstructionConfig",
    "LoaderState",
    "MixtureLoader",
    "Packed",
    "Tokenizer",
    "assign",
    "byte_tokenizer",
    "evaluation_batches",
    "evaluation_images",
    "file_tokenizer",
    "folder_tokenizer",
    "image_evaluation_batches",
    "load_groups",
    "load_images",
    "load_instructions",
    "make_batch",
    "pack",
    "repeated",
    "with_repeats",
]
