"""Textbook projection onto a rectified sum: both branches, every copy stored, the nearer one taken."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array

from pjax_kernels.sum.reference import mean_of_copies


def sum_relu_increments(
    inputs: tuple[Array, ...], z: Array, residual: Array | None = None
) -> tuple[tuple[Array, ...], Array]:
    """The mean changes of the inputs and the change of ``z``."""
    copies = [jnp.broadcast_to(x, z.shape) for x in inputs]
    count, total = len(copies), sum(copies)

    beyond = z - total if residual is None else jnp.where(total > 0, residual, z - total)
    share = beyond / (count + 1)
    active_allowed = total + count * share >= 0
    active_distance = jnp.where(active_allowed, (count + 1) * share**2, jnp.inf)
    excess = jnp.maximum(total, 0) / count
    inactive_distance = count * excess**2 + z**2

    active = active_distance < inactive_distance
    change = jnp.where(active, share, -excess)
    return tuple(mean_of_copies(x, change) for x in inputs), jnp.where(active, -share, -z)
