"""Textbook projection onto a sum, every copy stored."""

from __future__ import annotations

import math

import jax.numpy as jnp
from jax import Array


def sum_increments(
    inputs: tuple[Array, ...], z: Array, coefficients: tuple[float, ...], residual: Array | None = None
) -> tuple[tuple[Array, ...], Array]:
    """The mean changes of the inputs and the change of ``z``."""
    excess = z - sum(c * jnp.broadcast_to(x, z.shape) for x, c in zip(inputs, coefficients, strict=True))
    excess = excess if residual is None else residual
    share = excess / (sum(c**2 for c in coefficients) + 1)
    return tuple(mean_of_copies(x, c * share) for x, c in zip(inputs, coefficients, strict=True)), -share


def mean_of_copies(x: Array, changes: Array) -> Array:
    """The mean of ``changes`` over the copies of each element of ``x``."""
    extra = changes.ndim - x.ndim
    stretched = tuple(extra + i for i, size in enumerate(x.shape) if size != changes.shape[extra + i])
    total = jnp.sum(changes, axis=(*range(extra), *stretched)).reshape(x.shape)
    return total / max(changes.size // max(x.size, 1), 1)


def sum_over_increments(
    x: Array, z: Array, axes: tuple[int, ...], factor: float, residual: Array | None = None
) -> tuple[Array, Array]:
    """The change of ``x`` and of ``z``, its sum over ``axes``: the elements of each sum as inputs of their own."""
    order = (*axes, *(axis for axis in range(x.ndim) if axis not in axes))
    widths = [x.shape[axis] for axis in order]
    rows = jnp.transpose(x, order).reshape(math.prod(widths[: len(axes)]), *z.shape)
    changes, z_change = sum_increments(tuple(rows), z, (factor,) * len(rows), residual)
    stacked = jnp.stack(changes) if changes else rows
    return jnp.transpose(stacked.reshape(widths), [order.index(axis) for axis in range(x.ndim)]), z_change
