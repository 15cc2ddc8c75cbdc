"""What a form is fitted to: the runs of a table that it speaks of, and their quantisations."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from jlab.precision.law import PARTS
from jlab.precision.law_forms import Form
from jlab.precision.table import Table


class Runs(NamedTuple):
    """Rows of a table as a fit takes them; N and D in units of their geometric means."""

    inputs: Float[np.ndarray, "runs 6"]  # N, D, Pw, Pa, Pkv, Ppost = inf
    loss: Float[np.ndarray, "runs"]  # nats per token
    post_inputs: Float[np.ndarray, "post 6"]  # of the quantisations after training
    post_loss: Float[np.ndarray, "post"]
    rise: Float[np.ndarray, "post"]  # over the loss of its run
    owner: Int[np.ndarray, "post"]  # row of its run
    units: tuple[float, float]  # of N and of D
    parts: tuple[str, ...]  # that are quantised in some run
    post_parts: tuple[str, ...]  # in some run that is quantised after training, to fewer bits
    method: str  # that quantised; "" if none

    @property
    def to_fewer(self) -> np.ndarray:
        """Quantisations to fewer bits than every part was trained in; the law has others free."""
        return np.all(self.post_inputs[:, 2:5] > self.post_inputs[:, 5:], axis=1)

    @property
    def usable(self) -> np.ndarray:
        """Quantisations whose rise has a logarithm, in the data (the others are noise) and in the
        law."""
        return (self.rise > 0) & self.to_fewer


def runs_of(table: Table, form: Form, method: str | None = None) -> Runs:
    """The rows of a table that a form is fitted to.

    Runs with a part in low precision of which the form does not speak are left out.

    Args:
        table: the runs.
        form: what is to be fitted.
        method: of the quantisations after training; None for the only one that there is.

    Raises:
        ValueError: several methods to choose from, or not the one that is asked for.
    """
    known = table.rows(table.trained & _speaks_of(table, form))
    place = {run: row for row, run in enumerate(known.run)}
    method = _method(table, method) if form.degradation else ""
    post, rise = table.degradation(method or "none")
    mine = np.array([run in place for run in post.run], bool)
    post, rise = post.rows(mine), rise[mine]
    units = (_middle(known.N), _middle(known.D))
    inputs, post_inputs = _inputs(known, units), _inputs(post, units)
    runs = Runs(
        inputs,
        known.loss,
        post_inputs,
        post.loss,
        rise,
        np.array([place[run] for run in post.run], int),
        units,
        _low(inputs, form),
        (),
        method,
    )
    return runs._replace(post_parts=_low(post_inputs[runs.to_fewer], form))


def check_runs(name: str, runs: Runs, numbers: int, tied: bool) -> None:
    """Refuse runs that do not determine a form's part for trained models.

    Args:
        name: of the form.
        runs: what it is fitted to.
        numbers: how many parameters that part has.
        tied: whether alpha and beta are one.

    Raises:
        ValueError: fewer runs than parameters, or too few sizes and numbers of tokens: a grid of
            them shows one number less than it has rows and columns, and the Chinchilla part has 5.
    """
    if len(runs.loss) < numbers:
        raise ValueError(
            f"the form {name} has {numbers} parameters and needs at least as many finished runs; "
            f"the table has {len(runs.loss)} for it"
        )
    sizes, tokens = (len(np.unique(runs.inputs[:, column])) for column in (0, 1))
    needed = 5 if tied else 6
    if min(sizes, tokens) < 2 or sizes + tokens < needed:
        raise ValueError(
            f"the form {name} needs runs of at least 2 different N and of 2 different D, "
            f"{needed} together; the table has {sizes} and {tokens}"
        )


def check_quantised(name: str, runs: Runs, numbers: int) -> None:
    """Refuse quantisations after training that do not determine how the loss rises.

    Args:
        name: of the form.
        runs: what it is fitted to.
        numbers: how many parameters that part has.

    Raises:
        ValueError: fewer usable rows than parameters, or one N, D or Ppost alone.
    """
    usable = int(runs.usable.sum())
    if usable < numbers:
        raise ValueError(
            f"the form {name} needs at least {numbers} rows quantised after training whose loss "
            f"rose; the table has {usable}"
        )
    for column, what in ((0, "N"), (1, "D"), (5, "Ppost")):
        if len(np.unique(runs.post_inputs[runs.usable, column])) < 2:
            raise ValueError(
                f"the form {name} needs quantised rows of at least 2 different {what}; "
                "the table has 1"
            )


def _speaks_of(table: Table, form: Form) -> np.ndarray:
    others = [getattr(table, f"P{part}") for part in PARTS if part not in form.parts]
    return np.all([np.isinf(bits) for bits in others], axis=0) | (not others)


def _method(table: Table, method: str | None) -> str:
    there = [name for name in np.unique(table.method).tolist() if name]
    if method is not None and method not in there:
        raise ValueError(f"method must be one of the table's, {', '.join(there)}; got {method!r}")
    if method is None and len(there) > 1:
        raise ValueError(f"the table has rows of {', '.join(there)}: name the method to fit")
    return method or (there[0] if there else "")


def _middle(counts: Float[np.ndarray, "rows"]) -> float:
    """Geometric mean; 1 of none."""
    return float(np.exp(np.log(counts).mean())) if len(counts) else 1.0


def _inputs(table: Table, units: tuple[float, float]) -> Float[np.ndarray, "rows 6"]:
    N, D = table.N / units[0], table.D / units[1]
    return np.stack([N, D, table.Pw, table.Pa, table.Pkv, table.Ppost], axis=1)


def _low(inputs: Float[np.ndarray, "rows 6"], form: Form) -> tuple[str, ...]:
    low = np.isfinite(inputs[:, 2:5]).any(axis=0)
    return tuple(part for part, its in zip(PARTS, low, strict=True) if its and part in form.parts)
