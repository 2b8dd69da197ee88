"""Projection onto a sum in jax.numpy: any platform."""

from __future__ import annotations

import math

import jax.numpy as jnp
from jax import Array

from pjax_kernels.sum.reference import mean_of_copies


def sum_increments(
    inputs: tuple[Array, ...], z: Array, coefficients: tuple[float, ...], residual: Array | None = None
) -> tuple[tuple[Array, ...], Array]:
    """The mean changes of the inputs and the change of ``z``."""
    terms = [x if c == 1 else c * x for x, c in zip(inputs, coefficients, strict=True)]
    share = (z - sum(terms) if residual is None else residual) * (1 / (sum(c * c for c in coefficients) + 1))
    return tuple(
        mean_of_copies(x, share if c == 1 else c * share) for x, c in zip(inputs, coefficients, strict=True)
    ), -share


def sum_over_increments(
    x: Array, z: Array, axes: tuple[int, ...], factor: float, residual: Array | None = None
) -> tuple[Array, Array]:
    """The change of ``x`` and of ``z``, its sum over ``axes`` times the ``factor``."""
    total = jnp.sum(x, axes)
    scale = 1 / (math.prod(x.shape[axis] for axis in axes) * factor**2 + 1)
    beyond = z - (total if factor == 1 else factor * total) if residual is None else residual
    share = beyond * scale
    change = share if factor == 1 else factor * share
    return jnp.broadcast_to(jnp.expand_dims(change, axes), x.shape), -share
