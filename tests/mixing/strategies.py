"""Random proportions, matrices and groups' new order, for laws that hold for any of them."""

from functools import wraps

import jax
import numpy as np
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

GROUPS = (2, 3, 4)  # few sizes: each is one compilation


def in_float64(test):
    """Run a test with 64-bit floats, as the training loop runs a mixer."""

    @wraps(test)
    def wrapped(*args, **kwargs):
        with jax.enable_x64(True):
            return test(*args, **kwargs)

    return wrapped


def simplexes(m: int):
    weights = arrays(np.float64, m, elements=st.floats(0.01, 1))
    return weights.map(lambda w: w / w.sum())


def matrices(m: int, bound: float = 3.0):
    return arrays(np.float64, (m, m), elements=st.floats(-bound, bound))


@st.composite
def problems(draw, bound: float = 3.0):
    """(proportions, matrix, an order of the groups)."""
    m = draw(st.sampled_from(GROUPS))
    order = np.array(draw(st.permutations(range(m))))
    return draw(simplexes(m)), draw(matrices(m, bound)), order
