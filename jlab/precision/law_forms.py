"""Every form of the law, by name: what it makes of N, D and the bits, and its parameters.

A form is a function (params, inputs) -> loss of a trained model, the stems of its parameters and,
where it speaks of quantisation after training, a second function for the rise of the loss. A new
one is such a function and one line in `FORMS`; parameters that others have not yet need a range
for the starts of a fit in `RANGES`.
The rivals are those of Appendix C, Table 1, extended to all parts of the model; the paper names
them without formulas, which are read here as N -> N f, D -> D f and so on with the f of
Equation 3. Counts of parameters of three of them differ by one from the paper's.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from jlab.precision.arrays import Number, together
from jlab.precision.law import (
    PARTS,
    Params,
    chinchilla,
    effective_parameters,
    fraction,
    ptq_degradation,
    robustification,
)


class Inputs(NamedTuple):
    """What a loss is predicted from; all broadcast."""

    N: Number  # non-embedding parameters
    D: Number  # tokens
    Pw: Number = np.inf  # bits of the weights in training; inf: not quantised
    Pa: Number = np.inf  # of the activations
    Pkv: Number = np.inf  # of the KV cache
    Ppost: Number = np.inf  # of the weights after training

    @property
    def bits(self) -> dict[str, Number]:
        """Bits in training by part."""
        return dict(zip(PARTS, (self.Pw, self.Pa, self.Pkv), strict=True))


class Form(NamedTuple):
    """A form of the law; `floor` of its functions as in `jlab.precision.law.fraction`."""

    loss: Callable[[Params, Inputs, float | None], Number]  # of the trained model
    per_part: tuple[str, ...] = ()  # stems: `gamma` is gamma_w, gamma_a, gamma_kv
    shared: tuple[str, ...] = ()  # the same for all parts
    parts: tuple[str, ...] = PARTS  # that it speaks of
    degradation: Callable[[Params, Inputs, float | None], Number] | None = None
    post: tuple[str, ...] = ()  # parameters of the degradation; C is one per part

    def names(self, parts: tuple[str, ...] = PARTS) -> tuple[str, ...]:
        """Parameters of the form where these parts are quantised, as keys of `Params`."""
        parts = tuple(part for part in self.parts if part in parts)
        stems = [*self.per_part, *(name for name in self.post if name == "C")]
        each = [f"{stem}_{part}" for stem in stems for part in parts]
        post = [name for name in self.post if name != "C"]
        return (*BASE, *(self.shared if parts else ()), *each, *post)


BASE = ("A", "alpha", "B", "beta", "E")
OFFSETS = ("n", "n_data", "b")  # stems that are 0 without bias, and may be negative
POST = ("C_T", "gamma_D", "gamma_N", "gamma_post", "b")
# Where fits begin, per stem: drawn between the two, offsets evenly, all others in the logarithm.
RANGES = {
    "alpha": (0.15, 0.9),
    "beta": (0.15, 0.9),
    "gamma": (0.4, 4.0),
    "n": (-0.5, 2.5),
    "gamma_data": (0.4, 4.0),
    "n_data": (-0.5, 2.5),
    "c": (0.1, 10.0),
    "exponent": (1.0, 4.0),
    "C": (0.05, 3.0),
    "gamma_D": (0.2, 1.0),
    "gamma_N": (0.2, 1.0),
    "gamma_post": (0.3, 2.0),
}


def _chinchilla(params: Params, x: Inputs, floor: float | None) -> Number:
    return chinchilla(x.N, x.D, params=params)


def _n_eff(params: Params, x: Inputs, floor: float | None) -> Number:
    N = effective_parameters(x.N, x.Pw, x.Pa, x.Pkv, params=params, floor=floor)
    return chinchilla(N, x.D, params=params)


def _n_eff_weights(params: Params, x: Inputs, floor: float | None) -> Number:
    f = fraction(x.Pw, params["gamma_w"], params["n_w"], floor=floor)
    return chinchilla(_times(x.N, f), x.D, params=params)


def _n_eff_tied(params: Params, x: Inputs, floor: float | None) -> Number:
    """Every part has the same gamma-bar: N (1 - exp(-P/gamma + n))^3 where all have P bits."""
    f = [fraction(P, params["gamma"], params["n"], floor=floor) for P in x.bits.values()]
    return chinchilla(_times(x.N, *f), x.D, params=params)


def _d_eff(params: Params, x: Inputs, floor: float | None) -> Number:
    return chinchilla(x.N, _times(x.D, *_fractions(params, x, floor)), params=params)


def _n_d_tied(params: Params, x: Inputs, floor: float | None) -> Number:
    f = _fractions(params, x, floor)
    return chinchilla(_times(x.N, *f), _times(x.D, *f), params=params)


def _n_d_untied(params: Params, x: Inputs, floor: float | None) -> Number:
    of_data = _fractions(params, x, floor, "gamma_data", "n_data")
    N, D = _times(x.N, *_fractions(params, x, floor)), _times(x.D, *of_data)
    return chinchilla(N, D, params=params)


def _additive(params: Params, x: Inputs, floor: float | None) -> Number:
    """L + sum_x c_x P_x^-exponent_x."""
    loss = chinchilla(x.N, x.D, params=params)
    for penalty in _penalties(params, x):
        _, (loss, penalty) = together(loss, penalty)
        loss = loss + penalty
    return loss


def _multiplicative(params: Params, x: Inputs, floor: float | None) -> Number:
    """N prod_x (1 - c_x P_x^-exponent_x)."""
    N = x.N
    for penalty in _penalties(params, x):
        xp, (N, penalty) = together(N, penalty)
        left = 1 - penalty
        kept = xp.where(left > 0, left, xp.nan) if floor is None else xp.maximum(left, floor)
        N = N * kept
    return chinchilla(N, x.D, params=params)


def _ptq(params: Params, x: Inputs, floor: float | None) -> Number:
    return ptq_degradation(x.N, x.D, x.Ppost, params=params)


def _robust_ptq(params: Params, x: Inputs, floor: float | None) -> Number:
    """Equations 8 and 9: low-precision training overtrains N_eff, and robustifies the weights."""
    N = effective_parameters(x.N, x.Pw, x.Pa, x.Pkv, params=params, floor=floor)
    left = robustification(x.Ppost, x.Pw, x.Pa, x.Pkv, params=params)
    return _times(ptq_degradation(N, x.D, x.Ppost, params=params), left)


FORMS = {
    "chinchilla": Form(_chinchilla, parts=()),  # Section 2.2: nothing is quantised
    "n_eff": Form(_n_eff, ("gamma", "n")),  # Equation 4
    "n_eff_tied": Form(_n_eff_tied, shared=("gamma", "n")),  # Section 4.3: one gamma-bar
    "n_eff_weights": Form(_n_eff_weights, ("gamma", "n"), parts=("w",)),  # Equation 3
    "d_eff": Form(_d_eff, ("gamma", "n")),
    "n_d_tied": Form(_n_d_tied, ("gamma", "n")),
    "n_d_untied": Form(_n_d_untied, ("gamma", "n", "gamma_data", "n_data")),
    "additive": Form(_additive, ("c", "exponent")),
    "multiplicative": Form(_multiplicative, ("c", "exponent")),
    "ptq": Form(_chinchilla, parts=(), degradation=_ptq, post=POST),  # Equation 2
    "unified": Form(  # Equation 11
        _n_eff, ("gamma", "n"), degradation=_robust_ptq, post=(*POST, "C")
    ),
}


def stem_of(name: str) -> str:
    """`gamma` of `gamma_w`; a name that belongs to no part is its own stem."""
    stem, _, part = name.rpartition("_")
    return stem if part in PARTS else name


def without_offsets(params: Params) -> Params:
    """The parameters with every offset 0, as the main text writes the forms."""
    return {k: v * 0.0 if stem_of(k) in OFFSETS else v for k, v in params.items()}


def _fractions(params, x, floor, gamma: str = "gamma", n: str = "n") -> list[Number]:
    return [
        fraction(P, params[f"{gamma}_{part}"], params[f"{n}_{part}"], floor=floor)
        for part, P in x.bits.items()
    ]


def _penalties(params: Params, x: Inputs) -> list[Number]:
    """c P^-exponent of every part; 0 at P = inf."""
    found = []
    for part, P in x.bits.items():
        xp, (P, c, exponent) = together(P, params[f"c_{part}"], params[f"exponent_{part}"])
        off = xp.isinf(P)
        found.append(xp.where(off, 0.0, c * xp.where(off, 1.0, P) ** -exponent))
    return found


def _times(*factors: Number) -> Number:
    _, factors = together(*factors)
    product = factors[0]
    for factor in factors[1:]:
        product = product * factor
    return product
