"""Taylor attention at the sizes of the released benchmark: 16 columns of keys, 64 of values.

FLOPs in the authors' convention, with E = d^2 + d + 1 features: 2 E per token to make them and
4 p E to add to the state and to read it. A gradient counts three and a half times a forward pass,
which it includes.
"""

from functools import partial

from pallas_kernels.case import Case, Shapes, array, gradient
from pallas_kernels.ops.taylor_attention import taylor_attention


def _shapes(batch: int, length: int, heads: int, d: int, p: int) -> Shapes:
    keys = array(batch, length, heads, d)
    return keys, keys, array(batch, length, heads, p)


def _with_cotangent(shapes: Shapes) -> Shapes:
    return (*shapes, shapes[2])


def _cases(length: int, *, normalize: bool) -> tuple[Case, Case]:
    """Forward pass and gradient of one size."""
    batch, heads, d, p = 16, 16, 16, 64
    name = f"N={length} d={d} P={p}{' normalized' if normalize else ''}"
    features = d * d + d + 1
    flops = batch * heads * length * (2 * features + 4 * p * features)
    call = partial(taylor_attention, normalize=normalize)
    whole, fewer = _shapes(batch, length, heads, d, p), _shapes(1, length, 2, d, p)
    small = _shapes(1, 128, 1, d, p)
    forward = Case(f"taylor_attention/{name}", call, whole, flops, small, fewer)
    backward = Case(
        f"taylor_attention/gradient {name}",
        gradient(call, 3),
        *(_with_cotangent(whole), 3.5 * flops, _with_cotangent(small), _with_cotangent(fewer)),
    )
    return forward, backward


CASES = (
    *_cases(1024, normalize=False)[:1],
    *_cases(4096, normalize=False),
    *_cases(4096, normalize=True),
    *_cases(16384, normalize=False)[:1],
)
