"""Textbook projection onto a rounding to levels: the distance to every level's interval, the nearest taken."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jax import Array


def quantize_increments(
    x: Array, z: Array, levels: int, scale: float, residual: Array | None = None
) -> tuple[Array, Array]:
    """The changes of ``x`` and ``z``."""
    values = np.linspace(-scale, scale, levels)
    midpoints = (values[1:] + values[:-1]) / 2
    low = jnp.asarray(np.append(-np.inf, midpoints), x.dtype)
    high = jnp.asarray(np.append(midpoints, np.inf), x.dtype)

    x_changes = jnp.maximum(low - x[..., None], 0) + jnp.minimum(high - x[..., None], 0)
    z_changes = jnp.asarray(values, z.dtype) - z[..., None]
    if residual is not None:
        own = jnp.argmin(jnp.abs(x_changes), axis=-1)  # of two levels that x lies between the lower
        z_changes = jnp.asarray(values, z.dtype) - jnp.asarray(values, z.dtype)[own][..., None] - residual[..., None]
    nearest = jnp.argmin(x_changes**2 + z_changes**2, axis=-1, keepdims=True)
    x_change, z_change = (jnp.take_along_axis(changes, nearest, axis=-1) for changes in (x_changes, z_changes))
    return x_change[..., 0], z_change[..., 0]
