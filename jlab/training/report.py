"""Numbers to tables: what a run says at its end."""

from collections.abc import Iterable, Sequence

import numpy as np

from jlab.training.language_model import Trained


def test_summary(trained: Trained, windows: int) -> dict:
    """Test loss, perplexity and bits per byte of every group, and the windows behind them.

    Perplexity is exp of the mean over windows of their mean token loss, as the Aioli paper's; bits
    per byte count every token and the bytes that the split's tokens stand for.
    """
    losses = trained.evaluate("test", windows)
    bytes_per_token = trained.groups.bytes_per_token("test")
    return {
        "groups": list(trained.groups.names),
        "loss": losses.loss.tolist(),
        "perplexity": np.exp(losses.loss).tolist(),
        "bits_per_byte": (losses.nats_per_token / np.log(2) / bytes_per_token).tolist(),
        "windows": losses.windows.tolist(),
    }


def skipped_note(logs: Iterable[list[dict]]) -> str:
    """How many steps of the logged runs were left out as not finite; empty where none was."""
    left_out = sum(max((row.get("skipped", 0) for row in rows), default=0) for rows in logs)
    return f"\n{left_out} training steps were not finite and left out.\n" if left_out else ""


def mean_and_spread(values: Sequence[float]) -> str:
    """Mean, and the standard deviation over the seeds where there are several."""
    values = np.asarray(values, float)
    if len(values) == 1:
        return f"{values[0]:.3f}"
    return f"{values.mean():.3f} ± {values.std(ddof=1):.3f}"


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown, its columns padded so that it reads as plain text too."""
    cells = [list(head), *[list(map(str, row)) for row in rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]

    def line(row):
        return "| " + " | ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) + " |"

    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([line(cells[0]), rule, *map(line, cells[1:])]) + "\n"
