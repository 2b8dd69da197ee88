"""Textbook projection onto a rounding to levels: the distance to every level's interval, the nearest taken."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jax import Array


def quantize_increments(
    x: Array, z: Array, scale: Array, *, levels: int, relaxed: bool = False, residual: Array | None = None
) -> tuple[Array, Array]:
    """The changes of ``x`` and ``z``."""
    parts = np.linspace(-1, 1, levels)
    midpoints = (parts[1:] + parts[:-1]) / 2
    values = scale * jnp.asarray(parts, x.dtype)
    low = scale * jnp.asarray(np.append(-np.inf, midpoints), x.dtype)
    high = scale * jnp.asarray(np.append(midpoints, np.inf), x.dtype)

    x_changes = jnp.maximum(low - x[..., None], 0) + jnp.minimum(high - x[..., None], 0)
    if relaxed:
        level = values[jnp.argmin(jnp.abs(x_changes), axis=-1)]
        normal = jnp.stack([jnp.where(jnp.abs(x) <= scale, -1.0, 0.0), jnp.ones_like(x)])
        share = (z - level if residual is None else residual) / jnp.sum(normal**2, axis=0)
        return -share * normal[0], -share * normal[1]
    beyond = z[..., None]
    if residual is not None:
        own = jnp.argmin(jnp.abs(x_changes), axis=-1)  # of two levels that x lies between the lower
        values, beyond = values - values[own][..., None], residual[..., None]
    # Squared distances less that of z, which may be so large that no level tells in it.
    nearest = jnp.argmin(x_changes**2 + values * (values - 2 * beyond), axis=-1, keepdims=True)
    z_changes = values - beyond
    x_change, z_change = (jnp.take_along_axis(changes, nearest, axis=-1) for changes in (x_changes, z_changes))
    return x_change[..., 0], z_change[..., 0]
