"""Projection onto a sum in jax.numpy: any platform."""

from __future__ import annotations

import math

import jax.numpy as jnp
from jax import Array

from pjax_kernels.sum.reference import mean_of_copies


def sum_increments(
    inputs: tuple[Array, ...], z: Array, residual: Array | None = None
) -> tuple[tuple[Array, ...], Array]:
    """The mean changes of the inputs and the change of ``z``."""
    residual = z - sum(inputs) if residual is None else residual
    share = residual * (1 / (len(inputs) + 1))
    return tuple(mean_of_copies(x, share) for x in inputs), -share


def sum_over_increments(
    x: Array, z: Array, axes: tuple[int, ...], residual: Array | None = None
) -> tuple[Array, Array]:
    """The change of ``x`` and of ``z``, its sum over ``axes``."""
    residual = z - jnp.sum(x, axes) if residual is None else residual
    share = residual * (1 / (math.prod(x.shape[axis] for axis in axes) + 1))
    return jnp.broadcast_to(jnp.expand_dims(share, axes), x.shape), -share
