"""The rotation trick in the plane, measured: no model takes part.

Cells of fixed codes are pushed outwards, inwards and sideways (Section 4.3), and points go down
Himmelblau's function through a lookup (Appendix A.2), under several estimators from one start.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jlab.vq.config import ESTIMATORS
from jlab.vq.landscape import (
    MINIMA,
    Descent,
    descend,
    himmelblau,
    nearest_distance,
    push,
    spread,
)
from jlab.vq.landscape_plots import himmelblau_plot, voronoi_plot

if TYPE_CHECKING:
    from jlab.training.run import Run

PUSHES = ("outwards", "inwards", "sideways")
PUSHED = {
    "straight-through": "straight_through",
    "rotation": "rotation",
    "reflection": "reflection",
}
DESCENDED = {name: PUSHED[name] for name in ("straight-through", "rotation")}
CELLS, RADIUS, SCATTER, POINTS = 6, 2.2, 0.75, 40  # codes on a circle, points round each
SEEDS, STARTS, CODES, SHOWN = 10, 256, (4, 8, 16, 32), 8  # of the descents; codes in the plot


TITLE = (
    "Arrows: the update applied in each cell. Circles: before, dots: after 25 updates.\nRotation"
    " widens across what it pushes outwards, narrows what it pushes inwards"
)


class Pushed(NamedTuple):
    """Cells and what became of their points."""

    codes: Float[np.ndarray, "k 2"]
    gradients: Float[np.ndarray, "k 2"]
    trails: dict[str, Float[np.ndarray, "t k n 2"]]  # by estimator


def landscape(out: "Run") -> dict[str, Any]:
    """Both studies: `voronoi.png`, `himmelblau.png`, and their numbers as JSON values."""
    pushed = push_cells()
    descents = {codes: descents_of(codes) for codes in CODES}
    shown = descents[SHOWN]
    found = spreads(pushed)
    trails = {_titled(name, found): trail for name, trail in pushed.trails.items()}
    voronoi_plot(out, pushed.codes, pushed.gradients, trails, TITLE)
    himmelblau_plot(out, shown, {name: _distances(run) for name, run in shown.items()})
    return {"push": found, "descent": descent_numbers(descents)}


def _titled(name: str, rows: list[dict[str, Any]]) -> str:
    """The estimator with what became of the spread across the codes' directions."""
    its = [f"x{x['tangential']:.2f} {x['pushed']}" for x in rows if x["estimator"] == name]
    return f"{name}\nspread across: {', '.join(its)}"


def push_cells() -> Pushed:
    """Cells that are pushed outwards, inwards and sideways in turn."""
    angle = jnp.arange(CELLS) * 2 * jnp.pi / CELLS + 0.2
    outwards = jnp.stack([jnp.cos(angle), jnp.sin(angle)], 1)
    around = jnp.stack([-outwards[:, 1], outwards[:, 0]], 1)
    kind = jnp.arange(CELLS)[:, None] % len(PUSHES)
    update = jnp.where(kind == 0, outwards, jnp.where(kind == 1, -outwards, around))
    drawn = jax.random.ball(jax.random.key(0), 2, shape=(CELLS, POINTS))
    points = RADIUS * outwards[:, None] + SCATTER * drawn
    trails = {
        name: np.asarray(
            jax.vmap(lambda *cell, f=ESTIMATORS[key]: push(*cell, f), out_axes=1)(
                points, RADIUS * outwards, -update
            )
        )
        for name, key in PUSHED.items()
    }
    return Pushed(np.asarray(RADIUS * outwards), np.asarray(-update), trails)


def spreads(pushed: Pushed) -> list[dict[str, Any]]:
    """How the spread of each kind of cell changed: after by before, means over the cells."""
    rows = []
    for name, trail in pushed.trails.items():
        found = [spread(trail[:, k], pushed.codes[k]) for k in range(CELLS)]
        for place, kind in enumerate(PUSHES):
            its = found[place :: len(PUSHES)]
            grown = {
                field: float(np.mean([getattr(x, field)[-1] / getattr(x, field)[0] for x in its]))
                for field in ("tangential", "radial")
            }
            rows.append({"estimator": name, "pushed": kind, **grown})
    return rows


def descents_of(codes: int) -> dict[str, Descent]:
    """So many codes from `SEEDS` random starts, the same for every estimator."""

    def start(key: Array) -> tuple[Array, Array]:
        points = jax.random.uniform(key, (STARTS, 2), minval=-5.0, maxval=5.0)
        return points, points[:codes]

    starts = jax.vmap(start)(jax.random.split(jax.random.key(0), SEEDS))
    return {
        name: jax.jit(jax.vmap(lambda *s, f=ESTIMATORS[key]: descend(himmelblau, *s, f)))(*starts)
        for name, key in DESCENDED.items()
    }


def descent_numbers(descents: Mapping[int, Mapping[str, Descent]]) -> list[dict[str, Any]]:
    """Of every number of codes and estimator: mean and standard deviation over the seeds.

    `steps` until the loss at the codes is a tenth of what it was; `better`: in how many seeds the
    number is below that of straight-through.
    """
    rows = []
    for codes, runs in descents.items():
        found = {name: _ends(run) for name, run in runs.items()}
        base = found["straight-through"]
        for name, ends in found.items():
            row = {"codes": codes, "estimator": name, "seeds": SEEDS}
            for field, values in ends.items():
                row[field] = {
                    "mean": float(values.mean()),
                    "deviation": float(values.std(ddof=1)),
                    "better": int((values < base[field]).sum()),
                }
            rows.append(row)
    return rows


def _ends(run: Descent) -> dict[str, Float[np.ndarray, "seeds"]]:
    loss = np.asarray(run.loss, np.float64)
    low = loss <= loss[:, :1] / 10
    return {
        "steps": np.where(low.any(1), low.argmax(1), low.shape[1]).astype(float),
        "loss": loss[:, -1],
        "error": np.asarray(run.error, np.float64)[:, -1],
        "distance": _distances(run)[:, -1].astype(np.float64),
        "used": np.asarray(run.used, np.float64)[:, -1],
    }


def _distances(run: Descent) -> Float[np.ndarray, "seeds t"]:
    """Mean over points of the distance from their code to the nearest minimum."""
    codes = jnp.take_along_axis(run.codes, run.ids[..., None], axis=2)
    return np.asarray(nearest_distance(codes, jnp.array(MINIMA)).mean(-1))
