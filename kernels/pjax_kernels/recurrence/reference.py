"""Textbook projection of a recurrence: inputs and hidden states joined, every dot product with its own copies."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array, lax

from pjax_kernels.dense import reference


def recurrence_increments(
    x: Array, h: Array, w_x: Array, w_h: Array, z: Array, *, precision: lax.PrecisionLike, residual: Array | None = None
) -> tuple[Array, Array, Array, Array, Array]:
    """The mean changes of ``x``, ``h``, ``w_x`` and ``w_h``, and the change of ``z``."""
    inputs, columns = x.shape[2], jnp.concatenate([w_x, w_h])
    length, width = columns.shape
    count = z.shape[0] * z.shape[1]
    rows, outputs = jnp.concatenate([x, h], axis=2).reshape(count, length), z.reshape(count, width)
    flat_residual = None if residual is None else residual.reshape(outputs.shape)
    changes = reference.dense_increments(rows, columns, outputs, precision=precision, residual=flat_residual)
    row_change, column_change, z_change = changes
    x_change, h_change = jnp.split(row_change, [inputs], axis=1)
    w_x_change, w_h_change = jnp.split(column_change, [inputs])
    return x_change.reshape(x.shape), h_change.reshape(h.shape), w_x_change, w_h_change, z_change.reshape(z.shape)
