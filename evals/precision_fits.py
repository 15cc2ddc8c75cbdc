"""What `python -m evals precision_law` works on: the checked table, and every form fitted to it."""

import hashlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jlab.precision import PUBLISHED, Fitted, HeldOut, ScalingLaw, Table, fit, held_out, read_table
from jlab.precision.law import PARTS
from jlab.precision.plan import known_parts

RIVALS = ("n_eff_tied", "d_eff", "n_d_tied", "n_d_untied", "additive", "multiplicative")
_UNPUBLISHED = tuple(f"C_{part}" for part in PARTS)
ANSWERING = ("unified", "ptq", "n_eff", "n_eff_tied", "n_eff_weights", "chinchilla")


class Inputs(NamedTuple):
    """All that the command needs, read and checked before anything is computed."""

    table: Table | None
    forms: tuple[str, ...]
    sha256: str  # of the table's file


class Fits(NamedTuple):
    """The forms that could be fitted, best informed first, and why others could not."""

    fitted: dict[str, Fitted]
    scores: dict[str, HeldOut | None]
    refused: dict[str, str]
    laws: dict[str, ScalingLaw]  # those that are asked: `fit`, `paper`

    def interval(self, name: str, of: Callable) -> tuple[np.ndarray, np.ndarray] | None:
        """95 % interval of something asked of a law; None for one without refits."""
        main = next(iter(self.fitted.values()), None)
        if name != "fit" or main is None or not main.refits:
            return None
        return main.interval(of)


def read_inputs(config) -> Inputs:
    """The table, and the forms to fit to it.

    Raises:
      FileNotFoundError: a table that is not there.
      ValueError: one that cannot be used, or options that do not fit it.
    """
    if not config.data:
        return Inputs(None, (), "")
    table = read_table(config.data)
    methods = sorted({name for name in table.method.tolist() if name})
    if config.method and config.method not in methods:
        raise ValueError(
            f"method must be one of the table's, {', '.join(methods) or 'none'};"
            f" got {config.method!r}"
        )
    if not config.method and len(methods) > 1:
        raise ValueError(f"the table has rows of {', '.join(methods)}: choose with --method")
    digest = hashlib.sha256(Path(config.data).read_bytes()).hexdigest()
    return Inputs(table, config.forms or _forms_of(table), digest)


def fit_forms(config, inputs: Inputs, say: Callable[[str], None]) -> Fits:
    """Fit and score every form; the first that can be fitted also gets refits.

    Raises:
      ValueError: no form can be fitted, with the reason of the first.
    """
    fitted, scores, refused = {}, {}, {}
    for name in inputs.forms:
        if name == "n_eff" and "unified" in fitted and not config.forms:
            continue  # the same fit to the trained models
        say(f"fitting the form {name}")
        main = name in ANSWERING and not any(done in ANSWERING for done in fitted)
        try:
            fitted[name] = _fit(config, inputs.table, name, config.samples if main else 0)
        except ValueError as error:
            refused[name] = str(error)
            continue
        scores[name] = None
        if config.held_out != "none":
            scores[name] = held_out(fitted[name], config.held_out, config.seed)
    if inputs.table is not None and not fitted:
        raise ValueError(f"{config.data}: {next(iter(refused.values()))}")
    first = sorted(fitted, key=lambda name: name not in ANSWERING)  # stable: in the order given
    fitted = {name: fitted[name] for name in first}
    laws = {"fit": fitted[first[0]].law} if first and first[0] in ANSWERING else {}
    if config.published:
        laws["paper"] = ScalingLaw({**PUBLISHED, **dict.fromkeys(_UNPUBLISHED, 1.0)})
    if len(laws) == 2:  # side by side: C_T e^b as one, as fits have it
        whole = PUBLISHED["C_T"] * math.exp(PUBLISHED["b"])
        laws["paper"] = ScalingLaw({**laws["paper"].params, "C_T": whole, "b": 0.0})
    return Fits(fitted, scores, refused, laws)


def gammas(law: ScalingLaw) -> tuple[dict, list[str]]:
    """Parameters with a gamma_x and an n_x for each part that the law knows, and these parts."""
    params, parts = dict(law.complete), known_parts(law)
    if law.form == "n_eff_tied":
        params |= {f"{stem}_{part}": params[stem] for stem in ("gamma", "n") for part in parts}
    return params, parts


def _fit(config, table: Table, name: str, samples: int) -> Fitted:
    return fit(
        table,
        name,
        bias=config.bias,
        tied=config.tied,
        joint=config.joint,
        method=config.method or None,
        huber=config.huber,
        starts=config.starts,
        samples=samples,
        seed=config.seed,
    )


def _forms_of(table: Table) -> tuple[str, ...]:
    """The law that says most of what the table has, then the rivals that it can tell apart."""
    trained = table.rows(table.trained)
    low = [part for part in PARTS if np.isfinite(getattr(trained, f"P{part}")).any()]
    quantised = bool((table.method != "").any())
    main = ("unified", "n_eff") if quantised else ("n_eff",)
    if not low:
        return ("ptq", "chinchilla") if quantised else ("chinchilla",)
    return (*main, *(name for name in RIVALS if len(low) > 1 or name != "n_eff_tied"))
