"""What the optimiser sees: residuals of logarithms, one function per form and layout.

A function that is made once is compiled once per shape. Rows with `kept` 0 only fill up a shape.
Both kinds of arrays will do: standard errors take differences of them in NumPy.
"""

from functools import lru_cache

from jaxtyping import Array, Float

from jlab.precision.arrays import together
from jlab.precision.fit_layout import Layout, complete
from jlab.precision.law import FLOOR
from jlab.precision.law_forms import FORMS, Inputs


@lru_cache
def loss_residuals(form: str, layout: Layout):
    """(theta, inputs, log loss, kept) -> residuals of trained models; one function per layout."""

    def residuals(theta, inputs, target, kept) -> Float[Array, "rows"]:
        params = complete(FORMS[form], layout.params(theta))
        loss = FORMS[form].loss(params, Inputs(*inputs.T), FLOOR)
        return (_log(loss) - target) * kept

    return residuals


@lru_cache
def rise_residuals(form: str, loss: Layout, rise: Layout):
    """(theta, theta of the loss, inputs, log rise, kept) -> residuals."""

    def residuals(theta, base, inputs, target, kept) -> Float[Array, "rows"]:
        params = complete(FORMS[form], {**loss.params(base), **rise.params(theta)})
        found = FORMS[form].degradation(params, Inputs(*inputs.T), FLOOR)
        return (_log(found) - target) * kept

    return residuals


@lru_cache
def total_residuals(form: str, loss: Layout, rise: Layout):
    """(theta of both, inputs, log loss, kept) -> residuals of all rows."""
    cut = len(loss.names)

    def residuals(theta, inputs, target, kept) -> Float[Array, "rows"]:
        params = {**loss.params(theta[:cut]), **rise.params(theta[cut:])}
        params, x = complete(FORMS[form], params), Inputs(*inputs.T)
        total = FORMS[form].loss(params, x, FLOOR) + FORMS[form].degradation(params, x, FLOOR)
        return (_log(total) - target) * kept

    return residuals


def _log(values) -> Float[Array, "rows"]:
    xp, (values,) = together(values)
    return xp.log(values)
