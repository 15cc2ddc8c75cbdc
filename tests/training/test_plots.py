"""Plots are made from whatever a run has logged so far, without a warning."""

import numpy as np
import pytest

from jlab.training import Run
from jlab.training.plots import figure, matrix_plot, mixture_plots, series

NAMES = ["code", "prose", "math"]


def plan(step, *shares, **more):
    proportions = list(shares)
    return {"step": step, "plan": {"proportions": proportions}, "mixture": proportions, **more}


def learned(step, learns=True):
    matrix = (np.arange(9.0).reshape(3, 3) - step).tolist()
    return {"step": step, "mixing/matrix": matrix, "mixing/round_learned": learns}


def losses(step):
    return {"step": step, "loss": 1.0, **{f"eval/loss/{name}": 3.0 - step for name in NAMES}}


FIXED = [plan(0, 0.2, 0.3, 0.5), losses(1), losses(2)]
LEARNING = [plan(0, 1 / 3, 1 / 3, 1 / 3), learned(0, False), losses(1), learned(2)]
LEARNED = [*LEARNING, plan(2, 0.5, 0.25, 0.25), learned(4), plan(4, 0.8, 0.1, 0.1), losses(5)]


def assert_png(path):
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG\r\n")
    assert len(data) > 2000


@pytest.mark.parametrize(
    ("arms", "made"),
    [
        ({"fixed": FIXED}, ["loss_by_group", "proportions"]),
        ({"fixed": FIXED, "learned": LEARNED}, ["loss_by_group", "matrix", "proportions"]),
        # Broken off: before A was learned, before the first evaluation, before the first line.
        ({"early": LEARNING[:3]}, ["loss_by_group", "proportions"]),
        ({"started": [plan(0, 0.2, 0.3, 0.5)]}, ["loss_by_group", "proportions"]),
        ({"nothing": []}, ["loss_by_group", "proportions"]),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else "",
)
def test_a_run_can_be_plotted_wherever_it_stands(arms, made, tmp_path):
    mixture_plots(Run(tmp_path), arms, NAMES)
    found = sorted((tmp_path / "plots").iterdir())
    assert [path.name for path in found] == [f"{name}.png" for name in made]
    for path in found:
        assert_png(path)


def test_settled_shares_are_drawn_bold_from_the_first_round_on(tmp_path):
    """Aioli's uniform plan at step 0 is no result: the bold line starts where A is learned."""
    kept = []

    class Keeper(Run):
        def plot(self, name, figure):
            lines = figure.axes[0].get_lines()
            kept.append([(line.get_linewidth(), line.get_xydata().tolist()) for line in lines])

    mixture_plots(Keeper(tmp_path), {"learned": LEARNED}, NAMES)
    thin, bold = kept[0][:2]  # of the first group
    assert thin[1] == [[0, 1 / 3], [2, 0.5], [4, 0.8], [5, 0.8]]
    assert bold[1] == [[2, 0.5], [4, 0.8], [5, 0.8]]
    assert bold[0] > thin[0]


def test_matrices_without_a_round_make_no_plot(tmp_path):
    matrix_plot(Run(tmp_path), [learned(0, False)], NAMES)
    assert not (tmp_path / "plots").exists()


def test_a_matrix_with_fewer_targets_than_groups_can_be_plotted(tmp_path):
    row = {"step": 1, "mixing/matrix": [[0.0, 1.0, -1.0]], "mixing/round_learned": True}
    matrix_plot(Run(tmp_path), [row], NAMES)
    assert_png(tmp_path / "plots/matrix.png")


def test_a_series_leaves_out_what_is_missing_and_takes_the_last_of_a_step():
    lines = [{"step": 1, "x": 1.0}, {"step": 2}, {"step": 3, "x": None}, {"step": 1, "x": 5.0}]
    assert series(lines, "x") == ([1], [5.0])
    assert series([], "x") == ([], [])


def test_figures_are_closed_and_the_style_is_taken_back():
    import matplotlib.pyplot as plt

    before, size = set(plt.get_fignums()), plt.rcParams["font.size"]

    def fail(made, axes):
        assert axes.shape == (3, 2)
        assert made.number in plt.get_fignums()
        raise KeyError

    with pytest.raises(KeyError), figure(2, 3) as drawn:
        fail(*drawn)
    assert set(plt.get_fignums()) == before
    assert plt.rcParams["font.size"] == size
