"""The best run that budgets allow: parameters, tokens, bits in training, bits in service.

Training costs C = cost N D P. Serving costs N times the bits of a weight, per token: of the bits
that are left after quantisation, else those of training. The paper minimises the loss under
C = N P alone (Equation 29), which says nothing of D and has P* = 7.0 for every C; with a budget for
training beside the one for service the question has an answer, and quantising after training is
part of it. A run may end before its budget: a model that will be quantised is worse for every token
beyond the critical ones.
Source: Kumar, Ankner et al., arXiv 2411.04330, Section 4.3 and Appendix; the two budgets are ours.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from jlab.precision.law_forms import BASE, FORMS, stem_of
from jlab.precision.optimum import COST
from jlab.precision.scaling_law import ScalingLaw

MOST_BITS = 16.0  # in training
LEAST_BITS = 1.0
RATIOS = (1e-4, 1e9)  # tokens per parameter that are looked at
POINTS = 33  # per axis of the search
ROUNDS = 14  # each of which narrows both axes tenfold


class Planned(NamedTuple):
    """A run, and what the law says of it."""

    N: float  # parameters
    D: float  # tokens
    P: float  # bits in training; inf: not quantised
    Ppost: float  # bits of the weights after training; inf: as trained
    loss: float  # nats per token, as served
    spent: float  # of the budget for training, as a share
    served: float  # bits of weights read per token: N times P or Ppost


def plan(
    law: ScalingLaw,
    C: float,
    *,
    N: float | None = None,
    P: float | None = None,
    post: Sequence[float] = (np.inf,),
    serving: float = np.inf,
    cost: float = COST,
) -> list[Planned]:
    """The best run for each way of serving it, best first.

    Weights, activations and KV cache, as far as the law knows them, are trained in P bits.

    Args:
        law: of a form whose loss depends on bits.
        C: budget for training, in the unit of `cost`.
        N: parameters, where they are given.
        P: bits in training, where they are given; else up to 16.
        post: bits to quantise the weights to after training; inf: serve them as trained.
        serving: most bits of weights per token.
        cost: C / (N D P).

    Raises:
        ValueError: a budget, size or precision that is not positive, a form that does not know
            what is asked, or nothing that the budgets allow.

    Example:
        >>> from jlab.precision.published import PUBLISHED
        >>> best, *_ = plan(ScalingLaw(PUBLISHED), 1e21)
        >>> f"{best.N:.2g} {best.D:.2g} {best.P:.2f}"
        '5.3e+09 7.1e+10 7.00'
    """
    for name, value in (("C", C), ("N", N), ("P", P), ("serving", serving), ("cost", cost)):
        if value is not None and not value > 0:
            raise ValueError(f"{name} must be positive; got {value}")
    if not np.isfinite(C):
        raise ValueError(f"C must be finite; got {C}")
    if not known_parts(law):
        raise ValueError(f"a plan needs a law of which bits are a part; got one of form {law.form}")
    found = [_best(law, C / cost, N, P, bits, serving) for bits in post]
    kept = [choice for choice in found if choice is not None]
    if not kept:
        raise ValueError(
            f"no run within a budget of {C:.4g} and {serving:.4g} bits per served token: the law "
            "allows none at these sizes and precisions"
        )
    return sorted(kept, key=lambda choice: choice.loss)


def _best(law, c, N, P, post, serving) -> Planned | None:
    """Search over tokens per parameter and bits, ever closer round the best."""
    low = np.log(np.array([RATIOS[0], LEAST_BITS if P is None else P]))
    high = np.log(np.array([RATIOS[1], MOST_BITS if P is None else P]))
    best = None
    for _ in range(ROUNDS):
        axes = [np.linspace(a, b, POINTS) for a, b in zip(low, high, strict=True)]
        ratio, bits = (np.exp(axis.ravel()) for axis in np.meshgrid(*axes, indexing="ij"))
        size, tokens, loss = _evaluate(law, c, ratio, bits, N, post, serving)
        if np.all(np.isnan(loss)):
            return None
        i = int(np.nanargmin(loss))
        best = Planned(
            N=float(size[i]),
            D=float(tokens[i]),
            P=float(bits[i]),
            Ppost=float(post if post < bits[i] else np.inf),
            loss=float(loss[i]),
            spent=float(size[i] * tokens[i] * bits[i] / c),
            served=float(size[i] * min(post, bits[i])),
        )
        step = (high - low) / (POINTS - 1)
        here = np.log(np.array([ratio[i], bits[i]]))
        low, high = np.maximum(low, here - 2 * step), np.minimum(high, here + 2 * step)
    return best


def _evaluate(
    law, c, ratio, bits, N, post, serving
) -> tuple[Float[np.ndarray, "points"], Float[np.ndarray, "points"], Float[np.ndarray, "points"]]:
    most = serving / np.minimum(bits, post)
    if N is None:
        size = np.minimum(np.sqrt(c / (bits * ratio)), most)
    else:
        size = np.where(most * (1 + 1e-12) >= N, N, np.nan)
    x = {f"P{part}": bits for part in known_parts(law)}
    tokens = c / (size * bits)
    with np.errstate(all="ignore"):
        if np.isfinite(post):
            tokens = np.minimum(tokens, _most_useful_tokens(law, size, post, x))
            loss = law.loss(size, tokens, Ppost=post, **x)
            # Bits that are not there need no quantising: served as trained.
            loss = np.where(bits <= post, law.loss(size, tokens, **x), loss)
        else:
            loss = law.loss(size, tokens, **x)
    return size, tokens, loss


def _most_useful_tokens(law: ScalingLaw, size, post, x) -> Float[np.ndarray, "points"]:
    """Equation 13 for what low-precision training leaves of the degradation."""
    params = law.complete
    per_token = law.degradation(size, 1.0, post, **x)  # delta = per_token D^gamma_D
    exponent = params["gamma_D"] + params["beta"]
    return (params["beta"] * params["B"] / (params["gamma_D"] * per_token)) ** (1 / exponent)


def known_parts(law: ScalingLaw) -> list[str]:
    """Parts of the model of which a law says what fewer bits cost."""
    form = FORMS[law.form]

    def known(part):
        names = [n for n in form.names((part,)) if stem_of(n) not in (*BASE, *form.post)]
        return np.all(np.isfinite([law.complete[name] for name in names]))

    return [part for part in form.parts if known(part)]
