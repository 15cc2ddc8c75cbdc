"""Use of codes and intervals of `evals reconstruction`, on numbers made up by hand."""

import numpy as np
import pytest

from evals.reconstruction import Config
from evals.reconstruction_page import page
from evals.reconstruction_scores import code_use, scores


def test_codes_of_a_small_set_are_one_group():
    """Of 8 codes 0 comes twice, 3 and 7 once; -1 is none: H = 1/2 ln 2 + 2/4 ln 4 = 1.5 ln 2."""
    found = code_use(np.array([[0, 3, -1], [7, 0, -1]]), 8)
    assert found == pytest.approx(
        {"usage": 3 / 8, "perplexity": 2**1.5, "dead": 5, "usage_256": 3 / 8, "tokens": 4}
        | {"tokens_256": 4, "parts": 1}
    )


def test_the_papers_usage_is_the_mean_over_groups_of_256_images():
    """Groups of one and of three codes, of 4: (1/4 + 3/4) / 2. What is left over has all four."""
    ids = np.zeros((600, 1), int)
    ids[256:259, 0] = [1, 2, 0]
    ids[512:516, 0] = [0, 1, 2, 3]
    found = code_use(ids, 4)
    assert (found["usage"], found["usage_256"], found["dead"]) == (1.0, 0.5, 0)
    assert (found["parts"], found["tokens_256"], found["tokens"]) == (2, 256, 600)


def test_a_relative_error_is_a_ratio_of_means_with_its_own_interval():
    columns = {
        "mse": np.full(30, 0.5),
        "error": np.linspace(1, 2, 30),
        "norm": np.linspace(2, 4, 30),
    }
    found = scores(columns, Config(samples=200))
    assert found["relative_error"] == pytest.approx({"value": 0.5, "low": 0.5, "high": 0.5})
    assert found["mse"] == {"value": 0.5, "low": 0.5, "high": 0.5}
    assert found["error"]["low"] < found["error"]["value"] < found["error"]["high"]
    assert scores(columns, Config(samples=200)) == found


def test_what_is_not_finite_is_said():
    found = scores({"mse": np.array([1.0, np.nan])}, Config(samples=10))
    assert found["mse"]["value"] is None


def test_a_page_has_one_table_cell_per_bar(summary):
    for line in page("x", summary).splitlines():
        if line.startswith("| rotation"):
            assert line.count("|") == 5


@pytest.fixture
def summary():
    number = {"value": 1.0, "low": 0.5, "high": 2.0}
    use = {"place": "codes", **code_use(np.zeros((2, 3), int), 4)}
    means = {"mean": 1.0, "deviation": 0.1, "better": 3}
    fields = ("error", "loss", "distance", "steps", "used")
    model = {"label": "a", "codes": 4, "kind": "ema", "gradient": "rotation", "use": [use]}
    return {
        "images": {"digits": 2},
        "split": "train",
        "features": "",
        "perceptual": "",
        "models": [{**model, "scores": {"mse": number}, "groups": {}, "sets": None}],
        "push": [{"estimator": "rotation", "pushed": "inwards", "tangential": 0.7, "radial": 1.4}],
        "descent": [
            {"codes": 4, "estimator": name, "seeds": 10, **dict.fromkeys(fields, means)}
            for name in ("straight-through", "rotation")
        ],
    }
