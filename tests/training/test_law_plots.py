"""Plots of laws: made for any number of groups, with what they claim to show in them."""

import numpy as np
import pytest

from jlab.training.law_plots import fit_plot, optimum_plot, rank_plot, slice_plot


class Kept:
    """Stands in for a run: calls `look(figure)` while the figure is open."""

    def __init__(self, look):
        self.look, self.names = look, []

    def plot(self, name, figure):
        figure.canvas.draw()  # layout and text are made, as when it is saved
        self.names.append(name)
        self.look(figure)


def bowl(p):
    """Lowest at a share of 0.6 of the first group, the rest divided equally."""
    m = p.shape[-1]
    best = np.array([0.6, *[0.4 / (m - 1)] * (m - 1)])
    return 3 + ((p - best) ** 2).sum(-1)


def sweep(m, n=20):
    p = np.random.default_rng(m).dirichlet(np.ones(m), n)
    return p, bowl(p)


@pytest.mark.parametrize("m", [2, 3, 4, 9])
@pytest.mark.parametrize("refits", [0, 5])
def test_slices_mark_the_optimum_for_any_number_of_groups(m, refits):
    optimum = np.array([0.6, *[0.4 / (m - 1)] * (m - 1)])
    optima = np.vstack([optimum, np.tile(optimum, (refits, 1))])
    found = []

    def look(figure):
        axis = figure.axes[0]
        stars = [line for line in axis.get_lines() if line.get_marker() == "*"]
        found.extend(star.get_xydata()[0].tolist() for star in stars)
        labels = {
            text.get_text() for text in (figure.legends or [axis.get_legend()])[0].get_texts()
        }
        assert "optimum" in labels
        assert ("optima of refits" in labels) == (refits > 0 and m > 2)

    out = Kept(look)
    slice_plot(out, "log-linear", [f"g{i}" for i in range(m)], bowl, sweep(m), optima)
    assert out.names == ["slices_log-linear"]
    if m == 3:  # corners at (0, 0), (1, 0) and (1/2, height): x = p_1 + p_2 / 2 counted from 0
        np.testing.assert_allclose(found[0], [0.2 + 0.1, 0.2 * np.sqrt(0.75)])
    elif m > 3:  # shares of the two groups of the first pair
        assert found[0][0] in optimum


def test_pairs_are_of_the_groups_that_move_the_objective():
    labels = set()
    slice_plot(
        Kept(lambda figure: labels.update(axis.get_xlabel() for axis in figure.axes[:6])),
        "linear",
        list("abcdef"),
        lambda p: p @ np.array([1.0, 9.0, 1.0, 5.0, 0.0, -5.0]),
        sweep(6),
        np.eye(6)[5:],
    )
    # The mean of the slopes is 11/6: b, f, d and e are furthest from it (e by a little).
    assert labels == {"share of b", "share of d", "share of e"}  # f is last: always on the y axis


def test_every_target_up_to_fifteen_has_a_panel_with_its_points():
    predicted = np.arange(60.0).reshape(3, 20)
    seen = []

    def look(figure):
        panels = [axis for axis in figure.axes if axis.get_title()]
        seen.extend(axis.get_title() for axis in panels)
        points = panels[1].get_lines()[0].get_xydata()
        np.testing.assert_array_equal(points, [[1, 2], [21, 22], [41, 42]])

    parts = {"train": (predicted, predicted + 1), "test": (predicted, predicted)}
    fit_plot(Kept(look), "linear", [f"t{i}" for i in range(20)], parts)
    assert seen == [f"t{i}" for i in range(15)]


def test_a_single_target_can_be_plotted():
    column = np.array([[1.0], [1.0]])
    fit_plot(Kept(lambda figure: None), "linear", ["only"], {"train": (column, column)})


def test_ranks_are_counted_from_the_lowest_loss():
    def look(figure):
        (points,) = [line for line in figure.axes[0].get_lines() if line.get_marker() == "o"]
        np.testing.assert_array_equal(points.get_xydata(), [[3, 3], [1, 1], [2, 2]])
        assert "Spearman 1.00" in figure.axes[0].get_title()
        assert "Spearman -1.00" in figure.axes[1].get_title()

    laws = {"a": np.array([9.0, 1.0, 5.0]), "b": np.array([1.0, 9.0, 5.0])}
    rank_plot(Kept(look), laws, np.array([0.3, 0.1, 0.2]))


@pytest.mark.parametrize("interval", [True, False])
def test_bars_are_sorted_by_the_first_laws_optimum(interval):
    share = np.array([0.2, 0.5, 0.3])
    ends = (share - 0.1, share + 0.1) if interval else (share * np.nan,) * 2

    def look(figure):
        axis = figure.axes[0]
        assert [text.get_text() for text in axis.get_yticklabels()] == ["a", "c", "b"]
        assert [bar.get_width() for bar in axis.patches] == [0.2, 0.3, 0.5]

    optimum_plot(Kept(look), ["a", "b", "c"], {"linear": (share, *ends)}, share[::-1])
