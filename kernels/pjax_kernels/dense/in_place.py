"""Projection of a dense layer in consensus form that moves its weights where they are, in jax.numpy, for CPUs.

What an iteration adds to the change of the weights is its largest array.  Here it is never whole: the weights are the
mean of their copies at once, a few rows at a time.
"""

from __future__ import annotations

import functools
from typing import Any

import jax.numpy as jnp
from jax import Array, lax

from pjax_kernels import roots
from pjax_kernels.consensus import coefficients, mean_change
from pjax_kernels.dense.xla import dot_products
from pjax_kernels.meshes import on_automatic_axes

FEWEST_ROWS = 128
"""Smaller products take longer for each of their rows."""


def _results_like(x: Array, w: Array, w_change: Array, z: Array, *_: Any, moves_x: bool = True, **__: Any) -> Any:
    """What the results are sharded like."""
    return x if moves_x else None, w_change, z


@functools.partial(on_automatic_axes, like=_results_like)
def project_dense_in_place(
    x: Array,
    w: Array,
    w_change: Array,
    z: Array,
    residual: Array | None = None,
    *,
    moves_x: bool = True,
    precision: lax.PrecisionLike = "highest",
) -> tuple[Array | None, Array, Array]:
    """Project copies of ``x`` (B, N), of ``w + w_change`` (N, M) and ``z`` (B, M), and average those of the weights.

    All have one dtype, float32 or wider; ``residual`` is ``z`` less the products, where it is known.  Returns the mean
    change of ``x``, None unless ``moves_x``, the new ``w_change``, and the change of ``z``.
    """
    dots, weights = dot_products(x, w, precision=precision), w + w_change
    # What is held where roots are far is less than what is held anyway.
    rows = roots.rows_at_a_time(z.shape, max(roots.BLOCK, z.size // 16))
    found = coefficients(dots, x, weights, z, residual, rows=rows, moves_x=moves_x)
    # The change of z is in its place before the products are formed: they are large.
    minus_t, minus_beta = after_all(found.minus_t, found.minus_beta)
    x_change = None
    if moves_x:
        # All of w_change is read before any of it is overwritten.
        from_w, minus_beta = after_all(dots.to_x(minus_beta, weights), minus_beta)
        x_change = mean_change(x, found.gamma_x, found.free_x, from_w, dots.x_copies)
    block = _rows_in_a_block(x.shape[0], w.shape[0])

    def move(start: Array | int, w_change: Array) -> Array:
        at = functools.partial(lax.dynamic_slice_in_dim, start_index=start, slice_size=block)
        from_x, old = dots.to_w(minus_beta, at(x, axis=1)), at(w_change)
        new = old + mean_change(at(w) + old, found.gamma_w, found.free_w, from_x, dots.w_copies)
        return lax.dynamic_update_slice_in_dim(w_change, new, start, axis=0)

    if block == w.shape[0]:
        return x_change, move(0, w_change), minus_t
    return x_change, lax.fori_loop(0, w.shape[0] // block, lambda k, w: move(k * block, w), w_change), minus_t


def after_all(*arrays: Array) -> tuple[Array, ...]:
    """The arrays, each once all are there: compilers order by data alone, and for speed, not for memory."""
    first = sum(array.ravel()[0] for array in arrays if array.size)
    never = jnp.asarray((first != first) & (first == first))
    return roots.replaced_if(never, lambda arrays: tuple(2 * array for array in arrays), arrays)


def _rows_in_a_block(batch: int, length: int) -> int:
    """How many rows of w to move at a time, a divisor of their number: they are about as large as z then."""
    most = max(batch, FEWEST_ROWS)
    return next((rows for rows in range(most, most // 2, -1) if length % rows == 0), length)
