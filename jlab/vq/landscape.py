"""What an estimator does to points in the plane: the paper's two pictures of the rotation trick.

`push` holds codes, cells and the gradients at the decoder's input fixed and moves points by what
the estimator makes of them (Section 4.3, Figures 4 and 5). `descend` lets points go down a known
loss through a lookup whose codes follow them (Appendix A.2). Nothing else takes part: no network,
no reconstruction, no commitment loss.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jlab.vq.codebooks import Assigned, EMAState, ema
from jlab.vq.estimators import Estimator

Loss = Callable[[Array], Array]  # [..., d] -> [...]

# The four places where `himmelblau` is 0, to six digits.
MINIMA = ((3.0, 2.0), (-2.805118, 3.131313), (-3.779310, -3.283186), (3.584428, -1.848127))


def push(
    points: Float[Array, "n d"],
    codes: Float[Array, "*n d"],
    gradients: Float[Array, "*n d"],
    estimator: Estimator,
    *,
    steps: int = 25,
    learning_rate: float = 0.02,
) -> Float[Array, "steps+1 n d"]:
    """Where points are before and after each descent step x <- x - learning_rate * gradient(x).

    Angle and length ratio are those of the step; codes and gradients stay. The applied update is
    -gradients: a cell is pushed outwards where the angle of its code and -gradients is acute.

    Args:
      points: encoder outputs, at the start.
      codes: of each point, or of all of them.
      gradients: at the decoder's input, by point or the same for all.
      estimator: `(e, q) -> out`.
      steps: their number.
      learning_rate: of each.

    Source: Section 4.3 and Appendix A.10.5.

    Example:
      >>> from jlab.vq import rotation_trick
      >>> point, code = jnp.array([[0.0, 2.0]]), jnp.array([1.0, 0.0])
      >>> trail = push(point, code, -code, rotation_trick, steps=1, learning_rate=0.1)
      >>> trail[-1].tolist()  # outwards along its own ray, half as far as the code would go
      [[0.0, 2.049999952316284]]
    """
    codes, gradients = (jnp.broadcast_to(x, points.shape) for x in (codes, gradients))

    def step(points: Array, _: None) -> tuple[Array, Array]:
        _, pull = jax.vjp(lambda e: estimator(e, codes), points)
        points = points - learning_rate * pull(gradients)[0]
        return points, points

    _, trail = jax.lax.scan(step, points, length=steps)
    return jnp.concatenate([points[None], trail])


class Spread(NamedTuple):
    """Mean squared distances of points from their mean, along a code and across it."""

    radial: Float[Array, "..."]
    tangential: Float[Array, "..."]


def spread(points: Float[Array, "*batch n d"], code: Float[Array, "d"]) -> Spread:
    """How far the points of one cell lie apart, along the code's direction and across it.

    Roots of the mean squares. With the length ratio in it the rotation trick does not grow or
    shrink all distances: what it does across a cell it undoes in part along the code.
    """
    apart = points - points.mean(-2, keepdims=True)
    along = apart @ (code / jnp.linalg.norm(code))
    across = jnp.square(apart).sum(-1) - along**2
    # Rounding can take what lies along the code just below 0.
    return Spread(*(jnp.sqrt(jnp.maximum(x, 0).mean(-1)) for x in (along**2, across)))


def himmelblau(points: Float[Array, "*batch 2"]) -> Float[Array, "*batch"]:
    """(x^2 + y - 11)^2 + (x + y^2 - 7)^2: four minima of 0. Source: Appendix A.2."""
    x, y = points[..., 0], points[..., 1]
    return (x**2 + y - 11) ** 2 + (x + y**2 - 7) ** 2


class Descent(NamedTuple):
    """A descent, step by step; numbers are those before each step, and at the end."""

    points: Float[Array, "steps+1 n d"]
    codes: Float[Array, "steps+1 codes d"]
    ids: Int[Array, "steps+1 n"]
    loss: Float[Array, "steps+1"]  # at the codes of the points, their mean
    error: Float[Array, "steps+1"]  # |e - q|^2, the mean over points
    used: Float[Array, "steps+1"]  # number of codes that have points


def descend(
    loss: Loss,
    points: Float[Array, "n d"],
    codes: Float[Array, "codes d"],
    estimator: Estimator,
    *,
    steps: int = 100,
    learning_rate: float = 1e-3,
    decay: float = 0.8,
) -> Descent:
    """Points go down a loss that is taken at their codes; codes are running means of their points.

    At each step the points are looked up, their codes learn from them, and each point moves by
    what the estimator makes of the loss's gradient at its code. Codes without points keep their
    place: there is no origin for them to decay to here.

    Args:
      loss: of each point.
      points: at the start.
      codes: at the start, each with a running count of 1.
      estimator: `(e, q) -> out`.
      steps: their number.
      learning_rate: of the points.
      decay: of the codes' running sums.

    Source: Appendix A.2; the order within a step is Section 5.1's.
    """
    size, dim = codes.shape
    book = ema(size, dim, decay=decay, unused="freeze", precise=True)
    every = jnp.ones(len(points), bool)

    def measured(points: Array, state: EMAState) -> Descent:
        ids, q = book.lookup({}, state, points)
        error = jnp.square(points - q).sum(-1).mean()
        used = (jnp.zeros(size).at[ids].set(1)).sum()
        return Descent(points, state.vectors, ids, loss(q).mean(), error, used)

    def step(carry: tuple[Array, EMAState], _: None) -> tuple[tuple[Array, EMAState], Descent]:
        points, state = carry
        now = measured(points, state)
        q = state.vectors[now.ids]
        slope = jax.grad(lambda e: loss(estimator(e, q)).sum())(points)
        learned = book.update({}, state, Assigned(points, now.ids, every), None)
        return (points - learning_rate * slope, learned), now

    start = EMAState(codes, codes, jnp.ones(size, codes.dtype), jnp.bool_(False))
    end, trail = jax.lax.scan(step, (points, start), length=steps)
    return jax.tree.map(lambda x, last: jnp.concatenate([x, last[None]]), trail, measured(*end))


def nearest_distance(
    points: Float[Array, "*batch d"], places: Float[Array, "m d"]
) -> Float[Array, "*batch"]:
    """Distance of each point to the nearest of some places."""
    places = places.reshape((1,) * (points.ndim - 1) + places.shape)
    return jnp.sqrt(jnp.square(points[..., None, :] - places).sum(-1).min(-1))
