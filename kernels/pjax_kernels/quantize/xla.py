"""Projection onto a rounding to levels in jax.numpy: any platform."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array


def quantize_increments(
    x: Array, z: Array, scale: Array, *, levels: int, relaxed: bool = False, residual: Array | None = None
) -> tuple[Array, Array]:
    """The changes of ``x`` and ``z``.

    Three levels can be nearest: that of ``x`` itself and the best ones above and below, where the squared distance
    is a parabola of the level, lowest where the level is the mean of ``z`` and ``x`` moved by half a spacing.
    """
    last = levels - 1

    def position(value: Array) -> Array:
        """In units of the spacing, where levels are the numbers from 0 to ``last``."""
        return value * (last / (2 * scale)) + last / 2

    def value(position: Array) -> Array:
        return scale * ((2 * position - last) / last)

    at, target = position(x), position(z)
    own = jnp.clip(_nearest(at), 0, last)
    if relaxed:
        beyond = z - value(own) if residual is None else residual
        share = jnp.where(jnp.abs(x) <= scale, 0.5 * beyond, 0)
        return share, share - beyond
    middle = 0.5 * at + 0.5 * target
    above = jnp.minimum(jnp.maximum(_nearest(middle + 0.25), own + 1), last)
    below = jnp.maximum(jnp.minimum(_nearest(middle - 0.25), own - 1), 0)

    # Squared distances compared: the x part on the left, what z saves on the right.
    up = ((above - 0.5) - at) ** 2 < (above - own) * ((target - own) + (target - above))
    down = (at - (below + 0.5)) ** 2 <= (own - below) * ((own - target) + (below - target))
    level = jnp.where(up, above, jnp.where(down, below, own))
    x_up = jnp.maximum(value(level - 0.5) - x, 0)
    x_down = jnp.minimum(value(level + 0.5) - x, 0)
    x_change = jnp.where(up, x_up, jnp.where(down, x_down, 0))
    if residual is None:
        return x_change, value(level) - z
    return x_change, (2 * scale / last) * (level - own) - residual


def _nearest(position: Array) -> Array:
    """The nearest whole number, of two the lower."""
    return jnp.ceil(position - 0.5)
