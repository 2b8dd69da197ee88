"""Projection onto the graph of a scalar function by dense search: every point of a fine grid, then bisection."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from pjax_kernels.elementwise.curves import Curve, slope_of
from pjax_kernels.elementwise.pieces import Pieces

PARTS = 400
ZOOMS = 4
BISECTIONS = 80


def increments(x: Array, z: Array, residual: Array, function: Curve | Pieces) -> tuple[Array, Array]:
    """The changes of ``x`` and ``z``; where ``residual`` is not ``z - f(x)`` up to rounding, it is right, not ``z``."""
    value = function.value
    z = jnp.where(jnp.isfinite(residual), value(x) + residual, z)
    grid = jnp.sort(_grid(x, z, value), axis=0)
    for _ in range(ZOOMS):
        low, high = _around_the_best(grid, x, z, value)
        parts = jnp.linspace(0, 1, PARTS, dtype=x.dtype).reshape(-1, *(1,) * x.ndim)
        grid = low + (high - low) * parts
    new_x = _bisected(*_around_the_best(grid, x, z, value), x, z, value)
    new_z = value(new_x)
    stays = jnp.isfinite(residual) & (residual**2 <= (new_x - x) ** 2 + (new_z - z) ** 2)
    return jnp.where(stays, 0, new_x - x), jnp.where(stays, -residual, new_z - z)


def _grid(x: Array, z: Array, value: Callable[[Array], Array]) -> Array:
    """Points as far from ``x`` as its own image is from ``z``, and some around 0, where functions have poles."""
    residual = z - value(x)
    radius = jnp.where(jnp.isfinite(residual), jnp.abs(residual), jnp.abs(x) + jnp.abs(z) + 1)
    steps = np.concatenate([np.linspace(-1, 1, 8 * PARTS + 1), *(sign * 2.0 ** -np.arange(40) for sign in (1, -1))])
    around_zero = np.concatenate([sign * 2.0 ** (np.arange(-160, 48) / 4) for sign in (1, -1)])
    ones = (1,) * x.ndim
    return jnp.concatenate(
        [
            x + radius * jnp.asarray(steps, x.dtype).reshape(-1, *ones),
            jnp.broadcast_to(jnp.asarray(around_zero, x.dtype).reshape(-1, *ones), (len(around_zero), *x.shape)),
        ]
    )


def _around_the_best(grid: Array, x: Array, z: Array, value: Callable[[Array], Array]) -> tuple[Array, Array]:
    """The neighbours of the nearest point of a sorted grid."""
    squared = (grid - x) ** 2 + (value(grid) - z) ** 2
    best = jnp.argmin(jnp.where(jnp.isnan(squared), jnp.inf, squared), axis=0)[None]
    take = functools.partial(jnp.take_along_axis, grid, axis=0)
    return take(jnp.maximum(best - 1, 0))[0], take(jnp.minimum(best + 1, len(grid) - 1))[0]


def _bisected(low: Array, high: Array, x: Array, z: Array, value: Callable[[Array], Array]) -> Array:
    """Where the derivative of the squared distance changes its sign."""

    def halve(_: int, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = (low + high) / 2
        beyond = (middle - x) + (value(middle) - z) * slope_of(value, middle) > 0
        return jnp.where(beyond, low, middle), jnp.where(beyond, middle, high)

    low, high = lax.fori_loop(0, BISECTIONS, halve, (low, high))
    return high
