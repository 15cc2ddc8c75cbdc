"""The numbers that a fit turns: which parameters they are, where they begin, what units they have.

Positive parameters are turned in their logarithm, the others as they are. N and D are measured in
the table's own units, which takes A and alpha, B and beta apart.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float

from jlab.precision.arrays import together
from jlab.precision.law import FLOOR, Params
from jlab.precision.law_forms import OFFSETS, RANGES, Form, Inputs, stem_of

# In a small sweep the loss may rise with parameters: no sign is forced on these.
_SIGNED = (*OFFSETS, "gamma_D", "gamma_N")
SEED = 0  # of the starts: a fit is a function of its data


class Layout(NamedTuple):
    """Names of the numbers of one fit, in their order."""

    names: tuple[str, ...]
    tied: bool = False  # beta is alpha

    @property
    def free(self) -> np.ndarray:
        """Which of them may be negative."""
        return np.array([stem_of(name) in _SIGNED for name in self.names], bool)

    def params(self, theta: Float[Array, "*batch d"]) -> dict[str, Float[Array, "*batch"]]:
        """Parameters by name."""
        xp, (theta,) = together(theta)
        values = xp.where(xp.asarray(self.free), theta, xp.exp(xp.where(self.free, 0.0, theta)))
        found = {name: values[..., i] for i, name in enumerate(self.names)}
        return {**found, "beta": found["alpha"]} if self.tied else found

    def theta(self, params: Mapping[str, float]) -> Float[np.ndarray, "d"]:
        """The numbers of given parameters."""
        values = np.array([params[name] for name in self.names], np.float64)
        return np.where(self.free, values, np.log(np.where(self.free, 1, values)))


def loss_layout(form: Form, parts: tuple[str, ...], *, bias: bool, tied: bool) -> Layout:
    """What a fit to trained models turns."""
    names = [name for name in form.names(parts) if stem_of(name) not in form.post]
    return Layout(tuple(name for name in names if _turned(name, bias, tied)), tied)


def rise_layout(form: Form, parts: tuple[str, ...]) -> Layout:
    """What a fit to the rise of the loss turns: not b, of which C_T e^b alone is seen."""
    names = [name for name in form.names(parts) if stem_of(name) in form.post]
    return Layout(tuple(name for name in names if name != "b"))


def loss_starts(
    form: Form,
    layout: Layout,
    count: int,
    inputs: Float[np.ndarray, "runs 6"],
    loss: Float[np.ndarray, "runs"],
) -> Float[np.ndarray, "count d"]:
    """Where a fit to trained models begins: all but A, B and E drawn, these by least squares."""
    theta = _drawn(layout, count)
    x = Inputs(*inputs.T)

    def predicted(**values):
        params = complete(form, {k: v[:, None] for k, v in layout.params(theta).items()})
        with np.errstate(all="ignore"):
            return form.loss({**params, **values}, x, FLOOR)

    rest = predicted(A=0.0, B=0.0, E=0.0)
    columns = [predicted(**{"A": 0.0, "B": 0.0, "E": 0.0, name: 1.0}) - rest for name in "ABE"]
    columns = np.stack([np.broadcast_to(c, (count, len(loss))) for c in columns], axis=2)
    # In shares of the loss, as residuals of its logarithm are; a little ridge against ties.
    columns, target = columns / loss[None, :, None], 1 - rest / loss[None, :]
    square = np.einsum("srx,sry->sxy", columns, columns) + 1e-9 * len(loss) * np.eye(3)[None]
    right = np.einsum("srx,sr->sx", columns, np.broadcast_to(target, columns.shape[:2]))
    found = np.linalg.solve(square, right[..., None])[..., 0]
    places = [layout.names.index(name) for name in "ABE"]
    theta[:, places] = np.log(np.maximum(found, 1e-3 * loss.mean()))
    return theta


def rise_starts(layout: Layout, count: int, rise: Float[np.ndarray, "post"]) -> np.ndarray:
    """Where a fit to the rise of the loss begins: drawn, at about the right height."""
    theta = _drawn(layout, count)
    theta[:, layout.names.index("C_T")] += np.log(rise).max()
    return theta


def beside(theta: Float[np.ndarray, "d"], count: int) -> Float[np.ndarray, "count d"]:
    """A point, and others a tenth from it: where refits begin."""
    jitter = np.random.default_rng(SEED).standard_normal((count, len(theta)))
    jitter[0] = 0
    return theta[None, :] + 0.1 * jitter


def complete(form: Form, params: Params) -> dict[str, Float[Array, "..."]]:
    """Every parameter of the form: offsets that are not turned are 0, parts never seen unknown."""
    filled = {name: 0.0 if stem_of(name) in OFFSETS else np.nan for name in form.names()}
    return {**filled, **params}


def in_plain_units(params: Params, units: tuple[float, float]) -> dict[str, float]:
    """Parameters for N and D as plain counts, from those for N and D in `units`."""
    N, D = units
    found = dict(params)
    found["A"] = params["A"] * N ** params["alpha"]
    found["B"] = params["B"] * D ** params["beta"]
    if "C_T" in params:
        found["C_T"] = params["C_T"] * N ** params["gamma_N"] / D ** params["gamma_D"]
    return found


def _turned(name: str, bias: bool, tied: bool) -> bool:
    return not (tied and name == "beta") and (bias or stem_of(name) not in OFFSETS)


def _drawn(layout: Layout, count: int) -> Float[np.ndarray, "count d"]:
    """Evenly between the ends of each parameter's range, in the logarithm where it is positive."""
    random = np.random.default_rng(SEED)
    ends = np.array([RANGES.get(stem_of(name), (1.0, 1.0)) for name in layout.names])
    low, high = np.where(layout.free, ends.T, np.log(np.maximum(ends.T, 1e-9)))
    return low[None, :] + (high - low)[None, :] * random.random((count, len(low)))
