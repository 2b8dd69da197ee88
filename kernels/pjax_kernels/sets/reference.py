"""Textbook projections onto sets: every candidate compared, thresholds by bisection."""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
from jax import Array, lax

BISECTIONS = 250


def sphere(value: Array, norm: Array, *, axis: tuple[int, ...]) -> Array:
    """The nearest vectors of this norm along the axes."""
    scaled = value / jnp.maximum(jnp.max(jnp.abs(value), axis, keepdims=True), jnp.finfo(value.dtype).tiny)
    length = jnp.sqrt(jnp.sum(scaled**2, axis, keepdims=True))
    entries = max(value.size // max(length.size, 1), 1)
    return norm * jnp.where(length == 0, entries**-0.5, scaled / jnp.where(length == 0, 1, length))


def levels(value: Array, *, levels: Sequence[float]) -> Array:
    """The nearest of the levels, of all of them."""
    points = jnp.asarray(levels, value.dtype)
    nearest = points[jnp.argmin(jnp.abs(value[..., None] - points), axis=-1)]
    return jnp.where(jnp.isnan(value), value, nearest)


def sparse(value: Array, *, count: int, axis: int) -> Array:
    """The ``count`` largest entries, by sorting."""
    order = jnp.argsort(-jnp.abs(value), axis=axis, stable=True)
    place = jnp.argsort(order, axis=axis)
    return jnp.where(place < count, value, value * 0)


def one_hot(value: Array, low: Array, high: Array, *, axis: int) -> Array:
    """The best of all vectors with one ``high`` among ``low``."""
    value = jnp.moveaxis(value, axis, -1)
    vectors = low + (high - low) * jnp.eye(value.shape[-1], dtype=value.dtype)
    squared_distance = jnp.sum((value[..., None, :] - vectors) ** 2, axis=-1)
    nearest = vectors[jnp.argmin(squared_distance, axis=-1)]
    return jnp.moveaxis(jnp.where(jnp.isnan(squared_distance).any(-1, keepdims=True), jnp.nan, nearest), -1, axis)


def simplex(value: Array, total: Array, *, axis: int) -> Array:
    """``max(value - t, 0)`` whose sum is ``total``, with ``t`` by bisection."""
    value = value - jnp.max(value, axis, keepdims=True)  # large entries would take the total's digits

    def halve(_: int, bracket: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bracket
        middle = (low + high) / 2
        above = jnp.sum(jnp.maximum(value - middle, 0), axis, keepdims=True) > total
        return jnp.where(above, middle, low), jnp.where(above, high, middle)

    highest = jnp.max(value, axis, keepdims=True)
    low, high = lax.fori_loop(0, BISECTIONS, halve, (highest - total, highest))
    return jnp.maximum(value - (low + high) / 2, 0)


def orthonormal(value: Array) -> Array:
    """``U V^T`` of the singular value decomposition ``U S V^T``."""
    # Of infinite numbers LAPACK does not come back.
    known = jnp.all(jnp.isfinite(value), (-2, -1), keepdims=True)
    u, _, v = jnp.linalg.svd(jnp.where(known, value, jnp.nan), full_matrices=False)
    return u @ v
