"""Textbook projection onto means of windows: every copy of overlapping windows stored."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array

from pjax_kernels.average_pool.windows import WindowsOfArray


def average_pool_increments(x: Array, z: Array, windows: WindowsOfArray) -> tuple[Array, Array]:
    """The mean changes of ``x`` over its copies, and the changes of ``z``."""
    inside, factors = windows.spread(jnp.ones_like(x)), jnp.asarray(windows.factors, x.dtype)
    normal = factors[..., None] * inside  # of the hyperplane z = normal . copies, as far as the copies go
    excess = z - jnp.sum(normal * windows.spread(x), axis=-1)
    changes = normal * (excess / (jnp.sum(normal**2, axis=-1) + 1))[..., None]
    padded = jnp.pad(jnp.zeros_like(x), windows.padding)
    totals = padded.at[windows.places].add(changes.reshape(windows.laid_out))[windows.inside]
    counts = padded.at[windows.places].add(inside.reshape(windows.laid_out))[windows.inside]
    return totals / jnp.maximum(counts, 1), jnp.sum(normal * changes, axis=-1) - excess
