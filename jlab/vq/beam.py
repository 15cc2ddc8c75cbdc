"""Beam search for the sum of one code per level that comes nearest to a token."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jlab.vq.lookup import distances, in_parts

_SCORES = 1 << 20  # costs at work at a time


def beam_search(
    codes: Float[Array, "levels size d"], tokens: Float[Array, "n d"], beam: int
) -> Int[Array, "n levels"]:
    """Numbers of the codes, level after level, of the best sum that the beam has found.

    Args:
      codes: of every level.
      tokens: to come near to.
      beam: partial sums of each token kept after each level; 1: the nearest code each time.
    """
    levels, size, _ = codes.shape

    def of_part(part: Float[Array, "m d"]) -> Int[Array, "m levels"]:
        rows = len(part)
        left = part[:, None, :]  # [m, beams, d]: what each partial sum leaves over
        paths = jnp.zeros((rows, 1, 0), jnp.int32)
        for level in range(levels):
            beams = left.shape[1]
            cost = distances(codes[level], left.reshape(rows * beams, part.shape[1])).reshape(
                rows, beams, size
            )
            cost = cost + jnp.square(left).sum(-1, keepdims=True)
            keep = min(beam, beams * size)
            _, best = jax.lax.top_k(-cost.reshape(rows, beams * size), keep)
            parent, number = best // size, best % size
            chosen = codes[level][number]
            left = jnp.take_along_axis(left, parent[..., None], axis=1) - chosen
            paths = jnp.take_along_axis(paths, parent[..., None], axis=1)
            paths = jnp.concatenate([paths, number[..., None].astype(jnp.int32)], axis=-1)
        return paths[:, 0]  # top_k gives the best first

    return in_parts(of_part, tokens, max(1, _SCORES // (beam * size)))
