"""Projection of a recurrence in consensus form, in jax.numpy: any platform."""

from __future__ import annotations

import functools

import jax.numpy as jnp
from jax import Array, lax

from pjax_kernels.consensus import consensus_increments
from pjax_kernels.derivatives import consensus_formula
from pjax_kernels.dot_products import DotProducts

Pair = tuple[Array, Array]


def recurrence_increments(
    x: Array, h: Array, w_x: Array, w_h: Array, z: Array, *, precision: lax.PrecisionLike, residual: Array | None = None
) -> tuple[Array, Array, Array, Array, Array]:
    """The mean changes of ``x``, ``h``, ``w_x`` and ``w_h``, and the change of ``z``."""
    rows, columns = (_flat(x), _flat(h)), (w_x, w_h)
    dots = _dot_products(rows, columns, precision=precision)
    (x_change, h_change), (w_x_change, w_h_change), z_change = consensus_increments(
        dots, rows, columns, _flat(z), None if residual is None else _flat(residual)
    )
    return x_change.reshape(x.shape), h_change.reshape(h.shape), w_x_change, w_h_change, z_change.reshape(z.shape)


def formula(
    changes: tuple[Array, ...], x: Array, h: Array, w_x: Array, w_h: Array, z: Array, *, precision: lax.PrecisionLike
) -> tuple[Array, Array, Array, Array, Array]:
    """The same from the root that ``changes`` tell."""
    rows, columns = (_flat(x), _flat(h)), (w_x, w_h)
    dots = _dot_products(rows, columns, precision=precision)
    found = consensus_formula(dots, _flat(changes[-1]), rows, columns, _flat(z))
    (x_change, h_change), (w_x_change, w_h_change), z_change = found
    return x_change.reshape(x.shape), h_change.reshape(h.shape), w_x_change, w_h_change, z_change.reshape(z.shape)


def _flat(array: Array) -> Array:
    """Time steps as rows of a batch."""
    return array.reshape(array.shape[0] * array.shape[1], array.shape[2])


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
