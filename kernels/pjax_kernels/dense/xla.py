"""Projection of a dense layer in consensus form, in jax.numpy: any platform."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from pjax_kernels import root

_BLOCK = 1 << 14
"""Roots that :func:`_any` computes at a time."""


class _Coefficients(NamedTuple):
    """What the increments need of the roots of all dot products."""

    beta: Array  # (B, M)
    t: Array  # (B, M)
    gamma_rows: Array  # (B,)
    gamma_columns: Array  # (M,)
    free_rows: Array  # (B,)  sums of the radii of set-valued dot products
    free_columns: Array  # (M,)


def dense_increments(x: Array, w: Array, z: Array, *, precision: lax.PrecisionLike) -> tuple[Array, Array, Array]:
    """The mean changes of ``x`` (B, N) and ``w`` (N, M), and the change of ``z`` (B, M)."""
    p = jnp.matmul(x, w, precision=precision)
    x_squared, w_squared = jnp.sum(x * x, axis=1), jnp.sum(w * w, axis=0)
    scaled = root.scaled_residual(p, x_squared[:, None] + w_squared, z)
    found = _coefficients(scaled, p, x_squared, w_squared, z)

    rows, columns = 1 / max(z.shape[1], 1), 1 / max(z.shape[0], 1)
    free = max(x.shape[1], 1) ** -0.5
    x_mean = (found.gamma_rows * rows)[:, None] * x + (found.free_rows * (rows * free))[:, None]
    x_mean = x_mean + jnp.matmul(found.beta, w.T, precision=precision) * rows
    w_mean = (found.gamma_columns * columns) * w + found.free_columns * (columns * free)
    w_mean = w_mean + jnp.matmul(x.T, found.beta, precision=precision) * columns
    return x_mean, w_mean, -found.t


def _coefficients(scaled: Array, p: Array, x_squared: Array, w_squared: Array, z: Array) -> _Coefficients:
    """The coefficients: near roots first, which is nearly always all, and again if one of them was not near."""
    arguments = (scaled, p, x_squared, w_squared, z)
    *_, near, near_enough = root.near_limits(scaled.dtype)
    farthest = jnp.max(jnp.abs(scaled), initial=0)
    # A small layer can afford the third step, and needs it more often: few outputs make large residuals.
    steps, limit = (3, near_enough) if z.size <= _BLOCK else (2, near)

    def again(_: tuple[Array, _Coefficients]) -> tuple[Array, _Coefficients]:
        found = lax.cond(farthest <= near_enough, functools.partial(_near, steps=3), _any, *arguments)
        return jnp.zeros_like(farthest, bool), found

    # A loop that ends at once costs less than a branch: it leaves the common case in the main program.
    start = (farthest > limit, _near(*arguments, steps=steps))
    return lax.while_loop(lambda carry: carry[0], again, start)[1]


def _near(scaled: Array, p: Array, x_squared: Array, w_squared: Array, z: Array, *, steps: int) -> _Coefficients:
    """Coefficients where every root is near."""
    del z
    t = root.near_root(scaled, p, x_squared[:, None] + w_squared, steps=steps)
    t, beta, gamma, _ = root.near_coefficients(t)
    rows, columns = jnp.sum(gamma, axis=1), jnp.sum(gamma, axis=0)
    return _Coefficients(beta, t, rows, columns, jnp.zeros_like(rows), jnp.zeros_like(columns))


def _any(scaled: Array, p: Array, x_squared: Array, w_squared: Array, z: Array) -> _Coefficients:
    """Coefficients whatever the roots, a block of rows at a time: the arithmetic has many intermediates."""
    del scaled
    batch, width = p.shape
    rows = max(1, _BLOCK // max(width, 1))
    blocks = -(-batch // rows)
    padding = blocks * rows - batch

    def split(array: Array) -> Array:
        widths = [(0, padding)] + [(0, 0)] * (array.ndim - 1)
        return jnp.pad(array, widths).reshape(blocks, rows, *array.shape[1:])

    def of_block(block: tuple[Array, Array, Array]) -> _Coefficients:
        p, x_squared, z = block
        t, beta, gamma, radius = root.bilinear_root(p, x_squared[:, None] + w_squared, z)
        return _Coefficients(
            beta,
            t,
            gamma_rows=jnp.sum(gamma, axis=1),
            gamma_columns=jnp.sum(gamma, axis=0),
            free_rows=jnp.sum(radius, axis=1),
            free_columns=jnp.sum(t * radius, axis=0),
        )

    blockwise = lax.map(of_block, (split(p), split(x_squared), split(z)))

    def join(array: Array) -> Array:
        return array.reshape(blocks * rows, *array.shape[2:])[:batch]

    return _Coefficients(
        join(blockwise.beta),
        join(blockwise.t),
        join(blockwise.gamma_rows),
        jnp.sum(blockwise.gamma_columns, axis=0),
        join(blockwise.free_rows),
        jnp.sum(blockwise.free_columns, axis=0),
    )
