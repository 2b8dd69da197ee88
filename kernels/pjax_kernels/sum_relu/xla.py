"""Projection onto a rectified sum in jax.numpy: any platform."""

from __future__ import annotations

import math

import jax.numpy as jnp
from jax import Array

from pjax_kernels.sum.reference import mean_of_copies


def sum_relu_increments(
    inputs: tuple[Array, ...], z: Array, residual: Array | None = None
) -> tuple[tuple[Array, ...], Array]:
    """The mean changes of the inputs and the change of ``z``."""
    change, z_change = changes(inputs, z, residual)
    return tuple(mean_of_copies(x, change) for x in inputs), z_change


def changes(inputs: tuple[Array, ...], z: Array, residual: Array | None = None) -> tuple[Array, Array]:
    """The change of every copy of an input, the same for all inputs, and that of ``z``."""
    count, total = len(inputs), sum(inputs)
    beyond = z - total if residual is None else jnp.where(total > 0, residual, z - total)
    share = beyond * (1 / (count + 1))
    # Comparing the distances to the two branches comes down to the sign of one weighted sum: by Cauchy-Schwarz
    # for total > 0, where the active branch is nearer wherever it is allowed, and by solving for z elsewhere.
    active = total + jnp.where(total > 0, count, math.sqrt(count + 1) - 1) * z > 0
    change = jnp.where(active, share, jnp.maximum(total, 0) * (-1 / count))
    return change, jnp.where(active, -share, -z)
