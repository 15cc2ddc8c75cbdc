"""ImageConfig: which images to train on, and how they are cut to one shape."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class ImageConfig:
    """What images to train on, and how they are cut to one shape."""

    groups: tuple[str, ...] = ("digits",)
    """"digits" (1797 of 8 x 8), "photographs" (two, of which crops are taken), NAME=PATH (folder,
    glob or file of images, or a .npy or .npz array), or
    NAME=hf://DATASET?config=C&split=S&revision=R."""
    image_field: str | None = None
    """Column of a dataset or array of an .npz with the images; None: the only one there is."""
    size: int | None = None
    """Side of the square crop, random in training; None: 32 of photographs, all other images as
    they are."""
    resize: bool = False
    """Bring the shorter side to `size` before the crop."""
    flip: bool = False
    """Mirror half of the images in training, left to right."""
    channels: Literal[1, 3] | None = None
    """1: gray, 3: colour, None: 3 if any image has colour."""
    validation_fraction: float = 0.05
    """Share of the images for validation, told by their content; digits and photographs have their
    own."""
    max_images: int | None = None
    """Images used per group, spread evenly over it; None: all. Digits and photographs are whole."""
    on_error: Literal["raise", "skip"] = "raise"
    """What to do with an image that cannot be read; "skip" counts it."""

    def __post_init__(self):
        if not self.groups:
            raise ValueError('groups must name at least one group, such as "digits"; got none')
        for field in ("size", "max_images"):
            value = getattr(self, field)
            if value is not None and value < 1:
                raise ValueError(f"{field} must be at least 1; got {value}")
        if self.resize and self.size is None:
            raise ValueError("resize brings the shorter side to size; size must be given, got None")
        if self.channels not in (None, 1, 3):
            raise ValueError(f"channels must be 1, 3 or None; got {self.channels}")
        if not 0 < self.validation_fraction < 1:
            raise ValueError(
                f"validation_fraction must be between 0 and 1; got {self.validation_fraction}"
            )
        if self.on_error not in ("raise", "skip"):
            raise ValueError(f'on_error must be "raise" or "skip"; got {self.on_error!r}')
