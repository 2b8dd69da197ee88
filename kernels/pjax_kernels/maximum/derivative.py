"""The derivatives of projections onto a maximum: entries that have met ``z`` stay with it in their common mean."""

from __future__ import annotations

import math

import jax.numpy as jnp
from jax import Array

from pjax_kernels.windows import Windows, copies_of_each_entry


def max_formula(changes: tuple[Array, Array], x: Array, z: Array, *, axes: tuple[int, ...]) -> tuple[Array, Array]:
    """The changes of ``x`` and of ``z``, which has size 1 along ``axes``."""
    top = jnp.max(x, axis=axes, keepdims=True)
    fall = (top - z) - changes[1]
    # One largest entry always meets z, the first where it is raised.
    order = jnp.arange(math.prod(x.shape[axis] for axis in axes), dtype=jnp.int32)
    order = order.reshape([size if axis in axes else 1 for axis, size in enumerate(x.shape)])
    first = jnp.min(order, axis=axes, keepdims=True, where=x == top, initial=order.size)
    meets = (top - x < fall) | (order == first)
    below = jnp.where(meets, x - z, 0)  # no infinity of an entry that is left alone
    mean = jnp.sum(below, axis=axes, keepdims=True) / (jnp.sum(meets, axis=axes, keepdims=True, dtype=jnp.int32) + 1)
    return jnp.where(meets, mean - below, 0), mean


def max_pool_formula(
    changes: tuple[Array, Array], x: Array, z: Array, *, rows: Windows, columns: Windows
) -> tuple[Array, Array]:
    """The mean changes of ``x`` over its copies, and the changes of ``z``; every copy stored."""
    padding = ((0, 0), rows.padding, columns.padding, (0, 0))
    padded = jnp.pad(x, padding, constant_values=-math.inf)
    places = (slice(None), rows.positions[:, None, :, None], columns.positions[:, None])  # (B, H', W', h, w, C)
    windows = tuple(array[:, :, :, None, None] for array in (*changes[1:], z))
    new, z_change = max_formula((changes[0], windows[0]), padded[places], windows[1], axes=(3, 4))
    totals = jnp.zeros_like(padded).at[places].add(new)[:, rows.inside, columns.inside]
    return totals / copies_of_each_entry(rows, columns).astype(x.dtype), z_change[:, :, :, 0, 0]
