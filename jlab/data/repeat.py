"""Text said twice: windows whose second half can be told from the first, far back.

What a model gains on the second half it has from memory of as many tokens as half a window, however
likely the text is in itself. So the loss there tells whether an attention with a short window
carries anything beyond it.
"""

from collections.abc import Sequence

import numpy as np

from jlab.data.groups import Groups
from jlab.data.pack import Packed

REPEATS = "repeats"  # the group of text said twice
_WINDOWS = {"train": 50_000, "validation": 1_000, "test": 1_000}  # at most


def with_repeats(groups: Groups) -> Groups:
    """The groups and, as the last one, text of them said twice: of each split from that split.

    Raises:
      ValueError: a group has that name, or as `repeated`.
    """
    if REPEATS in groups.names:
        raise ValueError(
            f"data.groups: the name {REPEATS!r} is that of text said twice; take another"
        )
    more = {
        split: (*getattr(groups, split), repeated(getattr(groups, split), windows))
        for split, windows in _WINDOWS.items()
    }
    return groups._replace(names=(*groups.names, REPEATS), **more)


def repeated(groups: Sequence[Packed], windows: int) -> Packed:
    """Windows of half their length of text, twice; each is a document, and its repetition learned.

    The first token of the second half is not learned: nothing before it tells that it comes.

    Args:
      groups: where the text is from, in equal parts as far as there is enough; of one length.
      windows: how many to make, at most.

    Raises:
      ValueError: a length that is odd or below 4, or no window to make.
    """
    length = groups[0].length
    if length % 2 or length < 4:
        raise ValueError(f"length must be even and at least 4 for text said twice; got {length}")
    half = length // 2
    pieces = [packed.tokens[: len(packed.tokens) // half * half] for packed in groups]
    pieces = [_spread(tokens.reshape(-1, half), windows, len(groups)) for tokens in pieces]
    chosen = np.concatenate(pieces)[:windows]
    if not len(chosen):
        raise ValueError(f"windows must be at least 1 of the {windows} asked for; there is none")
    # The last window's last target: the first token of a document that is not there.
    stream = np.append(np.tile(chosen, 2).ravel(), chosen[0, 0])
    place = np.arange(len(stream)) % length
    return Packed(stream, np.arange(0, len(stream), length), length, place > half)


def _spread(rows: np.ndarray, windows: int, groups: int) -> np.ndarray:
    """A group's share of the windows, from all over it."""
    count = min(len(rows), -(-windows // groups))
    return rows[np.arange(count) * len(rows) // max(count, 1)]
