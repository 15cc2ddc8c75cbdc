"""The definition of the product and its epilogue, in XLA."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pallas_kernels.ops.matmul.epilogue import after, before


def matmul(
    a: Float[Array, "m k"],
    b: Float[Array, "k n"],
    *,
    bias: Float[Array, "n"] | None = None,
    activation: str | None = None,
    gate: Float[Array, "n"] | None = None,
    residual: Float[Array, "m n"] | None = None,
    row_scale: Float[Array, "m"] | None = None,
    column_scale: Float[Array, "n"] | None = None,
    out_dtype: Any,
) -> Float[Array, "m n"]:
    """See `pallas_kernels.matmul`; sums in at least float32."""
    if a.dtype.itemsize == 1:
        # Exact: every 8-bit float is a bfloat16, and CPUs have no 8-bit products.
        a, b = a.astype(jnp.bfloat16), b.astype(jnp.bfloat16)
    wide = jnp.promote_types(a.dtype, jnp.float32)
    product = jnp.matmul(a, b, preferred_element_type=wide)
    pre = before(
        product, _along(row_scale, 1, wide), *(_along(x, 0, wide) for x in (column_scale, bias))
    )
    y = after(pre, activation, _along(gate, 0, wide))
    y = y if residual is None else y + residual.astype(wide)
    return y.astype(out_dtype)


def _along(x: jax.Array | None, axis: int, dtype: Any) -> jax.Array | None:
    return None if x is None else jnp.expand_dims(x.astype(dtype), axis)
