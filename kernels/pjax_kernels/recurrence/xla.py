"""Projection of a recurrence in consensus form, in jax.numpy: any platform."""

from __future__ import annotations

import functools

import jax.numpy as jnp
from jax import Array, lax

from pjax_kernels.consensus import consensus_increments
from pjax_kernels.dot_products import DotProducts

Pair = tuple[Array, Array]


def recurrence_increments(
    x: Array,
    h: Array,
    w_x: Array,
    w_h: Array,
    z: Array,
    *,
    precision: lax.PrecisionLike,
    residual: Array | None = None,
) -> tuple[Array, Array, Array, Array, Array]:
    """The mean changes of ``x``, ``h``, ``w_x`` and ``w_h``, and the change of ``z``."""
    count = z.shape[0] * z.shape[1]
    flat_x, flat_h, flat_z = (array.reshape(count, array.shape[2]) for array in (x, h, z))
    rows, columns = (flat_x, flat_h), (w_x, w_h)
    dots = _dot_products(rows, columns, precision=precision)
    flat_residual = None if residual is None else residual.reshape(flat_z.shape)
    (x_change, h_change), (w_x_change, w_h_change), z_change = consensus_increments(
        dots, rows, columns, flat_z, flat_residual
    )
    return x_change.reshape(x.shape), h_change.reshape(h.shape), w_x_change, w_h_change, z_change.reshape(z.shape)


def _dot_products(rows: tuple[Array, ...], columns: tuple[Array, ...], *, precision: lax.PrecisionLike) -> DotProducts:
    """Those of ``x w_x + h w_h``, a matrix product of joined operands."""
    matmul = functools.partial(jnp.matmul, precision=precision)
    (batch, _), (_, width) = rows[0].shape, columns[0].shape

    def of_rows(rows: Pair) -> Array:
        return (jnp.sum(rows[0], axis=1) + jnp.sum(rows[1], axis=1))[:, None]

    def of_columns(columns: Pair) -> Array:
        return jnp.sum(columns[0], axis=0) + jnp.sum(columns[1], axis=0)

    def spread_rows(c: Array) -> Pair:
        return (jnp.sum(c, axis=1)[:, None],) * 2

    def spread_columns(c: Array) -> Pair:
        return (jnp.sum(c, axis=0),) * 2

    return DotProducts(
        product=lambda rows, columns: matmul(rows[0], columns[0]) + matmul(rows[1], columns[1]),
        of_x=of_rows,
        of_w=of_columns,
        to_x=lambda c, columns: tuple(matmul(c, w.T) for w in columns),
        to_w=lambda c, rows: tuple(matmul(x.T, c) for x in rows),
        spread_x=spread_rows,
        spread_w=spread_columns,
        length=rows[0].shape[1] + rows[1].shape[1],
        x_copies=(width, width),
        w_copies=(batch, batch),
    )
