"""The plot and the table of decode time and memory."""

import numpy as np
import pytest

from jlab.linearize import Decoding
from jlab.linearize.decode_plots import decode_plot, decode_table

CURVES = {
    "softmax": [Decoding(n, 1e-6 * n, 5e-7 * n, 2e-6 * n, 1000 * n, 8) for n in (256, 16384)],
    "linear": [Decoding(n, 2e-4, 1e-4, 3e-4, 30_000, 8) for n in (256, 16384)],
}


class Kept:
    """Stands in for a run: what the figure shows when it is saved."""

    def plot(self, name, figure):
        figure.canvas.draw()
        self.name, (time, memory) = name, figure.axes
        self.lines = [[line.get_xydata() for line in axis.get_lines()] for axis in (time, memory)]
        self.labels = [text.get_text() for text in figure.legends[0].get_texts()]
        self.axes = [(axis.get_xlabel(), axis.get_ylabel()) for axis in (time, memory)]
        self.ticks = [text.get_text() for text in memory.get_xticklabels()]


def test_the_plot_shows_milliseconds_and_megabytes_of_every_curve():
    out = Kept()
    decode_plot(out, CURVES)
    assert out.name == "decoding"
    assert out.labels == ["softmax", "linear"]
    assert out.ticks == ["256", "16,384"]
    assert out.axes == [
        ("context (tokens)", "time per token (ms)"),
        ("context (tokens)", "cache or state per sequence (MB)"),
    ]
    time, memory = out.lines
    np.testing.assert_allclose(time[0], [[256, 0.256], [16384, 16.384]])
    np.testing.assert_allclose(time[1], [[256, 0.2], [16384, 0.2]])
    np.testing.assert_allclose(memory[0], [[256, 0.256], [16384, 16.384]])
    np.testing.assert_allclose(memory[1], [[256, 0.03], [16384, 0.03]])


def test_the_table_has_a_line_per_context():
    table = decode_table(CURVES).splitlines()
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table]
    assert lines[0] == ["context", "softmax (ms)", "linear (ms)", "softmax (MB)", "linear (MB)"]
    assert lines[2:] == [
        ["256", "0.256", "0.200", "0.256", "0.030"],
        ["16,384", "16.384", "0.200", "16.384", "0.030"],
    ]


def test_curves_over_different_contexts_are_no_table():
    message = r"linear must have the contexts \[256, 16384\]; got \[256\]"
    with pytest.raises(ValueError, match=message):
        decode_table(CURVES | {"linear": CURVES["linear"][:1]})
