"""Projection of a dense layer in consensus form that puts its weights where they were, in jax.numpy, for CPUs.

The change of the weights is the largest array of an iteration.  Here it is never whole: the weights, a compensated
pair, are the mean of their copies at once, a few rows at a time.
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
from pjax_kernels.pairs import add_to_pair, new_high

FEWEST_ROWS = 128
"""Smaller products take longer for each of their rows."""


def _results_like(x: Array, w: Array, w_low: Array, z: Array, *, moves_x: bool = True, **_: Any) -> Any:
    """What the results are sharded like."""
    return x if moves_x else None, (w, w_low), z


@functools.partial(on_automatic_axes, like=_results_like)
def project_dense_in_place(
    x: Array, w: Array, w_low: Array, z: Array, *, moves_x: bool = True, precision: lax.PrecisionLike = "highest"
) -> tuple[Array | None, tuple[Array, Array], Array]:
    """Project copies of ``x`` (B, N), ``w`` (N, M) and ``z`` (B, M), and make the mean of those of ``w`` its value.

    All have one dtype, float32 or wider; ``w + w_low`` is the value of the weights, ``w`` what the copies start from.
    Returns the mean change of ``x``, None unless ``moves_x``, the new pair, and the new ``z``.
    """
    dots = dot_products(x, w, precision=precision)
    found = coefficients(dots, x, w, z, moves_x=moves_x)
    # The change of z is in its place before the products are formed: they are large.
    z, minus_beta = after_all(z + found.minus_t, found.minus_beta)
    x_change = None
    if moves_x:
        # All of w is read before any of it is overwritten.
        from_w, minus_beta = after_all(dots.to_x(minus_beta, w), minus_beta)
        x_change = mean_change(x, found.gamma_x, found.free_x, from_w, dots.x_copies)
    block = _rows_in_a_block(x.shape[0], w.shape[0])

    def move(start: Array | int, pair: tuple[Array, Array]) -> tuple[Array, Array]:
        high, low = pair
        at = functools.partial(lax.dynamic_slice_in_dim, start_index=start, slice_size=block)
        put = functools.partial(lax.dynamic_update_slice_in_dim, start_index=start, axis=0)
        from_x, old = dots.to_w(minus_beta, at(x, axis=1)), at(high)
        low_and_change = at(low) + mean_change(old, found.gamma_w, found.free_w, from_x, dots.w_copies)
        _, new_low = add_to_pair(old, low_and_change)
        low = put(low, new_low)
        # From the low part in its place: so it is there before the high part, which it follows from, is overwritten.
        return put(high, new_high(old, low_and_change, at(low))), low

    if block == w.shape[0]:
        pair = move(0, (w, w_low))
    else:
        pair = lax.fori_loop(0, w.shape[0] // block, lambda k, pair: move(k * block, pair), (w, w_low))
    return x_change, pair, z


def after_all(*arrays: Array) -> tuple[Array, ...]:
    """The arrays, each once all are there: compilers order by data alone, and for speed, not for memory."""
    first = sum(array.ravel()[0] for array in arrays if array.size)
    return roots.replaced_if(
        ~roots.always(jnp.asarray(first)), lambda arrays: tuple(2 * array for array in arrays), arrays
    )


def _rows_in_a_block(batch: int, length: int) -> int:
    """How many rows of w to move at a time, a divisor of their number: they are about as large as z then."""
    most = max(batch, FEWEST_ROWS)
    return next((rows for rows in range(most, most // 2, -1) if length % rows == 0), length)
