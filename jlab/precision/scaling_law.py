"""`ScalingLaw`: parameters with a form, which predict the loss of any run."""

import warnings
from dataclasses import dataclass
from functools import partial

import jax
import numpy as np

from jlab.precision.arrays import Number, together
from jlab.precision.law import PARTS, Params
from jlab.precision.law_forms import FORMS, Form, Inputs, stem_of, without_offsets


@partial(jax.tree_util.register_dataclass, data_fields=["params"], meta_fields=["form", "bias"])
@dataclass(frozen=True)
class ScalingLaw:
    """A form of the law with its parameters; a pytree whose leaves are the parameters.

    Parameters that are NaN are not known: predictions that need them are NaN. So are those of
    runs that the law says cannot be trained (f <= 0).

    Args:
        params: values by name; `beta` may be missing (then it is alpha), and so may C_w, C_a, C_kv,
            which the paper does not publish: they count as 1, its illustration, with a warning
            where that matters.
        form: a key of `jlab.precision.law_forms.FORMS`.
        bias: with the offsets of Appendix K; False for the formulas as the main text has them.

    Raises:
        ValueError: an unknown form or parameter, or one that the form lacks.

    Example:
        >>> from jlab.precision.published import PUBLISHED
        >>> law = ScalingLaw(PUBLISHED)
        >>> law.loss(220e6, np.array([1.5e9, 26e9])).round(4)
        array([3.5769, 3.1966])
        >>> law.loss(220e6, 26e9, Ppost=4).round(4)
        np.float64(3.2509)
    """

    params: Params
    form: str = "unified"
    bias: bool = True

    def __post_init__(self):
        if self.form not in FORMS:
            raise ValueError(f"form must be one of {', '.join(FORMS)}; got {self.form!r}")
        known = {name for form in FORMS.values() for name in form.names()}
        for name in self.params:
            if name not in known:
                names = ", ".join(sorted(known))
                raise ValueError(f"params must be among {names}; got {name!r}")
        given = {*self.params, "beta", *_ROBUST}
        if not self.bias:
            given |= {name for name in known if stem_of(name) in ("n", "n_data", "b")}
        missing = [name for name in FORMS[self.form].names() if name not in given]
        if missing:
            raise ValueError(f"params must have {', '.join(missing)} for the form {self.form}")

    def loss(
        self,
        N: Number,
        D: Number,
        Pw: Number = np.inf,
        Pa: Number = np.inf,
        Pkv: Number = np.inf,
        Ppost: Number = np.inf,
    ) -> Number:
        """Loss in nats per token, after quantisation of the weights to Ppost bits if it is finite.

        Arguments broadcast: jax arrays in, jax arrays out (for jit, vmap and grad); else NumPy in
        float64. P = inf: not quantised.

        Args:
            N: non-embedding parameters.
            D: tokens.
            Pw: bits of the weights in training.
            Pa: bits of the activations in training.
            Pkv: bits of the KV cache in training.
            Ppost: bits of the weights after training.

        Raises:
            ValueError: a finite Ppost and a form that says nothing of it.

        Source: Equation 11.
        """
        if _never(Ppost):
            return self._form.loss(self.complete, Inputs(N, D, Pw, Pa, Pkv), None)
        _, (N, D, Pw, Pa, Pkv, Ppost) = together(N, D, Pw, Pa, Pkv, Ppost)
        rise = self.degradation(N, D, Ppost, Pw, Pa, Pkv)
        return self._form.loss(self.complete, Inputs(N, D, Pw, Pa, Pkv), None) + rise

    def degradation(
        self,
        N: Number,
        D: Number,
        Ppost: Number,
        Pw: Number = np.inf,
        Pa: Number = np.inf,
        Pkv: Number = np.inf,
    ) -> Number:
        """How much quantising the weights after training adds to the loss, nats per token.

        Args:
            N: non-embedding parameters.
            D: tokens.
            Ppost: bits of the weights after training.
            Pw: bits of the weights in training.
            Pa: bits of the activations in training.
            Pkv: bits of the KV cache in training.

        Raises:
            ValueError: a form that says nothing of it.

        Source: Equations 2 and 9.
        """
        if self._form.degradation is None:
            speak = [name for name, form in FORMS.items() if form.degradation]
            raise ValueError(
                f"Ppost must be inf for the form {self.form}; {', '.join(speak)} speak of it"
            )
        self._warn_of_unpublished(Ppost, Pw, Pa, Pkv)
        return self._form.degradation(self.complete, Inputs(N, D, Pw, Pa, Pkv, Ppost), None)

    @property
    def complete(self) -> Params:
        """All parameters of the form: `beta`, C_x and, without bias, the offsets filled in."""
        params = {**dict.fromkeys(_ROBUST, 1.0), "beta": self.params["alpha"], **self.params}
        if self.bias:
            return params
        return without_offsets(dict.fromkeys(self._form.names(), 0.0) | params)

    @property
    def _form(self) -> Form:
        return FORMS[self.form]

    def _warn_of_unpublished(self, Ppost: Number, *bits: Number) -> None:
        if "C" not in self._form.post:
            return
        for name, P in zip(_ROBUST, bits, strict=True):
            traced = any(isinstance(value, jax.core.Tracer) for value in (Ppost, P))
            if name not in self.params and not traced and np.any((Ppost < P) & np.isfinite(P)):
                warnings.warn(
                    f"{name} is not published and counts as 1: set it in params", stacklevel=3
                )


_ROBUST = tuple(f"C_{part}" for part in PARTS)


def _never(Ppost: Number) -> bool:
    """Whether nothing is quantised after training, as far as one can tell without running."""
    return not isinstance(Ppost, jax.Array) and bool(np.all(np.isinf(Ppost)))
