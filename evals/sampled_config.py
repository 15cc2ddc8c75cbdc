"""What evaluations by repeated sampling have in common: fields of the config, task, verdicts."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from jlab.sampling import Graded, SamplingConfig

_LARGEST_SEED = 2**32 - 1  # JAX takes the lower 32 bits: above it a seed is another one again


@dataclass(frozen=True)
class SampledConfig:
    """What to sample from, and how."""

    model: str = ""
    """Hugging Face folder or hub id (Llama, Mistral, Qwen2, GPT-NeoX), or folder of a run here."""
    revision: str | None = None
    """Branch, tag or commit of a hub id (None: its main branch)."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the model's parameters and computation."""
    n_samples: int = 100
    """Samples of each problem; more of them later with --resume."""
    temperature: float = 0.6
    """Divides the logits; 0: always the likeliest token."""
    top_k: int | None = None
    """Keep so many of the likeliest tokens (None: all)."""
    top_p: float | None = None
    """Keep the fewest likeliest tokens that hold this probability (None: all)."""
    max_new_tokens: int = 512
    """A sample ends after so many tokens."""
    stop_strings: tuple[str, ...] = ()
    """A sample ends before one of these, or with the model's end token."""
    batch: int = 64
    """Most samples at work at a time."""
    tensor: int = 1
    """Devices that each copy of the parameters is split over; all devices share the samples."""
    seed: int = 0
    """Seed of the samples."""

    def __post_init__(self):
        for name in ("n_samples", "batch", "tensor"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1; got {getattr(self, name)}")
        if not 0 <= self.seed <= _LARGEST_SEED:
            raise ValueError(f"seed must be in [0, {_LARGEST_SEED}]; got {self.seed}")
        self.sampling()  # which has rules of its own

    def sampling(self, stop_tokens: tuple[int, ...] = ()) -> "SamplingConfig":
        """These fields as the sampler's config."""
        from jlab.sampling import SamplingConfig

        names = ("temperature", "top_k", "top_p", "max_new_tokens", "stop_strings")
        fields = {name: getattr(self, name) for name in names}
        return SamplingConfig(**fields, stop_tokens=stop_tokens)


class Task(NamedTuple):
    """The problems of a benchmark, in the order of the job."""

    title: str
    names: list[str]
    prompts: list[str]
    references: list[dict]  # what a grader takes to judge each
    settings: dict  # JSON: all that the prompts depend on


class Verdicts(NamedTuple):
    """What one grader says."""

    grader: str
    graded: dict[str, "Graded"]  # by problem
    votes: bool  # whether its answers can be voted on
    facts: dict  # JSON: more for the summary
    note: str = ""  # the same in words
