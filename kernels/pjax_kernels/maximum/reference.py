"""Textbook projections onto a maximum: entries sorted, every copy of overlapping windows stored."""

from __future__ import annotations

import math

import jax.numpy as jnp
from jax import Array

from pjax_kernels.roots import computed_once
from pjax_kernels.windows import Windows, copies_of_each_entry


def max_increments(x: Array, z: Array, axes: tuple[int, ...], residual: Array | None = None) -> tuple[Array, Array]:
    """The changes of ``x`` and of ``z``, which has size 1 along ``axes``."""
    x = x if residual is None else computed_once(x)
    last = tuple(range(-len(axes), 0))
    moved = jnp.moveaxis(x, axes, last)
    shape = moved.shape[: x.ndim - len(axes)]
    count = math.prod(x.shape[i] for i in axes)
    entries, estimate = moved.reshape(*shape, count), z.reshape(*shape, 1)
    known = None if residual is None else residual.reshape(estimate.shape)
    changes, z_change = _last_axis_increments(entries, estimate, known)
    return jnp.moveaxis(changes.reshape(moved.shape), last, axes), z_change.reshape(z.shape)


def _last_axis_increments(x: Array, z: Array, residual: Array | None) -> tuple[Array, Array]:
    """The changes of ``x`` ``(..., n)`` and ``z`` ``(..., 1)``."""
    # Everything as a distance below the largest entry: small changes of large values would be rounded away.
    top = jnp.max(x, axis=-1, keepdims=True)
    below, excess = top - x, top - z if residual is None else -residual
    # m_k = (z + sum of the k largest)/(k + 1).  The largest m_k, hence the smallest distance, is the valid one: with
    # fewer entries, one is left above m_k, and m_k rises as it joins; with more, one below m_k pulls it down.
    counts = jnp.arange(1, x.shape[-1] + 1)
    distances = (excess + jnp.cumsum(jnp.sort(below, axis=-1), axis=-1)) / (counts + 1)
    fall = jnp.min(distances, axis=-1, keepdims=True)
    lowered = -jnp.maximum(fall - below, 0), excess - fall

    is_first = counts - 1 == jnp.argmax(x, axis=-1, keepdims=True)
    raised = jnp.where(is_first, -excess / 2, 0), excess / 2
    above = excess < 0
    return jnp.where(above, raised[0], lowered[0]), jnp.where(above, raised[1], lowered[1])


def max_pool_increments(
    x: Array, z: Array, rows: Windows, columns: Windows, residual: Array | None = None
) -> tuple[Array, Array]:
    """The mean changes of ``x`` over its copies, and the changes of ``z``."""
    padding = ((0, 0), rows.padding, columns.padding, (0, 0))
    padded = jnp.pad(x, padding, constant_values=-math.inf)
    places = (slice(None), rows.positions[:, None, :, None], columns.positions[:, None])  # (B, H', W', h, w, C)
    known = None if residual is None else residual[:, :, :, None, None]
    changes, z_change = max_increments(padded[places], z[:, :, :, None, None], (3, 4), known)
    totals = jnp.zeros_like(padded).at[places].add(changes)[:, rows.inside, columns.inside]
    return totals / copies_of_each_entry(rows, columns), z_change[:, :, :, 0, 0]
