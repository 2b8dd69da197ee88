"""Projection of a dense layer in consensus form that puts its weights where they were, in jax.numpy, for CPUs.

What the weights are, and how they change, would be the largest arrays of an iteration.  Here neither is ever whole: the
mean of their copies is added to their change since the start at once, a few rows at a time.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from pjax_kernels.consensus import coefficients, mean_change
from pjax_kernels.dense.xla import dot_products
from pjax_kernels.derivatives import consensus_formula
from pjax_kernels.meshes import on_automatic_axes

FEWEST_ROWS = 128
"""Smaller products take longer for each of their rows."""


def _results_like(x: Array, w: Array, w_change: Array, z: Array, *_: Array, moves_x: bool = True, **__: Any) -> Any:
    """What the results are sharded like."""
    return x if moves_x else None, w_change, z


@functools.partial(on_automatic_axes, like=_results_like)
def project_dense_in_place(
    x: Array, w: Array, w_change: Array, z: Array, residual: Array, *, moves_x: bool = True
) -> tuple[Array | None, Array, Array]:
    """Project copies of ``x`` (B, N), ``w + w_change`` (N, M) and ``z`` (B, M), and add the mean change of the weights.

    All have one dtype, float32 or wider; ``residual`` is ``z`` less the products.  Returns the mean change of ``x``,
    None unless ``moves_x``, the new ``w_change``, and the change of ``z``.
    """
    return _projected(moves_x, x, w, w_change, z, residual)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _projected(
    moves_x: bool, x: Array, w: Array, w_change: Array, z: Array, residual: Array
) -> tuple[Array | None, Array, Array]:
    dots = dot_products(x, w, precision="highest")
    found = coefficients(dots, x, w + w_change, z, residual, moves_x=moves_x)
    block = _rows_in_a_block(x.shape[0], w.shape[0])

    def move(start: Array | int, moved: tuple[Array | None, Array]) -> tuple[Array | None, Array]:
        x_change, w_change = moved
        at = functools.partial(lax.dynamic_slice_in_dim, start_index=start, slice_size=block)
        put = functools.partial(lax.dynamic_update_slice_in_dim, start_index=start)
        x_here, change_here = at(x, axis=1), at(w_change)
        w_here = at(w) + change_here
        if x_change is not None:
            from_w = dots.to_x(found.minus_beta, w_here)
            new = mean_change(x_here, found.gamma_x, found.free_x, from_w, dots.x_copies)
            x_change = put(x_change, new.astype(x.dtype), axis=1)
        from_x = dots.to_w(found.minus_beta, x_here)
        new = mean_change(w_here, found.gamma_w, found.free_w, from_x, dots.w_copies)
        return x_change, put(w_change, change_here + new, axis=0)

    moved = jnp.zeros_like(x) if moves_x else None, w_change
    if block == w.shape[0]:
        moved = move(0, moved)
    else:
        moved = lax.fori_loop(0, w.shape[0] // block, lambda k, moved: move(k * block, moved), moved)
    return *moved, found.minus_t


@_projected.defjvp
def _(moves_x: bool, primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> Any:
    """By the implicit function theorem; the residual moves with the rest."""
    found = _projected(moves_x, *primals)

    def by_formula(x: Array, w: Array, w_change: Array, z: Array) -> tuple[Array | None, Array, Array]:
        dots, moved = dot_products(x, w, precision="highest"), w + w_change
        x_change, mean, z_change = consensus_formula(dots, found[2], x, moved, z)
        return x_change if moves_x else None, w_change + mean, z_change

    return found, jax.jvp(by_formula, primals[:4], tangents[:4])[1]


def _rows_in_a_block(batch: int, length: int) -> int:
    """How many rows of w to move at a time, a divisor of their number: they are about as large as z then."""
    most = max(batch, FEWEST_ROWS)
    return next((rows for rows in range(most, most // 2, -1) if length % rows == 0), length)
