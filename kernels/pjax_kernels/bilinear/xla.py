"""Projection onto ``z = a . b`` in jax.numpy: any platform."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax.numpy as jnp
from jax import Array
from jax.export import is_symbolic_dim

from pjax_kernels import root, roots, sums
from pjax_kernels.far import replaced_where

SMALL = 1 << 16
"""Entries of which all squares are computed anew for one root that is far."""

LEAST_ROWS = 64
"""Rows with far roots are gathered in blocks of so many at least."""

Squares: TypeAlias = Callable[[Array, Array, roots.Equations], tuple[Array, Array]]
"""``P`` and ``M`` of the equations of ``a`` and ``b``."""


def bilinear_increments(a: Array, b: Array, z: Array, residual: Array | None = None) -> tuple[Array, Array, Array]:
    """The changes of ``a`` (..., N), ``b`` (..., N) and ``z`` (...)."""
    if a.shape[-1] == 0:  # the only point of the set has z = 0
        return a, b, -z
    if residual is None:
        p, q = sums.over_rows((a * b, a * a + b * b))
    else:
        p, q = z - residual, jnp.sum(a * a + b * b, axis=-1)
    few = is_symbolic_dim(a.size) or a.size <= SMALL or z.size <= LEAST_ROWS
    found = coefficients(a, b, (p, q, z, residual), squares_of_all if few else squares_of_far)
    gamma, sign, rest, free = (array[..., None] for array in found[1:])
    return gamma * (a + sign * b) + (rest * b + free), gamma * (b + sign * a) + (rest * a + sign * free), found.z_change


class Coefficients(NamedTuple):
    """What the changes follow from: that of ``a`` is ``gamma (a + sign b) + (rest b + free)``.

    And that of ``b`` is ``gamma (b + sign a) + (rest a + sign free)``, ``sign`` being that of the root.  So no digits
    are lost, neither where one of a and b is small, nor where their sum or difference nearly vanishes.
    """

    z_change: Array
    gamma: Array
    sign: Array
    rest: Array
    free: Array


def squares_of_all(a: Array, b: Array, _: roots.Equations) -> tuple[Array, Array]:
    """From the entries, every one read once more: precise where ``a`` and ``b`` are nearly equal, or opposite."""
    half_sum, half_difference = 0.5 * (a + b), 0.5 * (a - b)
    return jnp.sum(half_sum * half_sum, axis=-1), jnp.sum(half_difference * half_difference, axis=-1)


def squares_of_far(a: Array, b: Array, equations: roots.Equations) -> tuple[Array, Array]:
    """From the entries where roots are far, gathered block by block; from ``p`` and ``q`` elsewhere."""
    p, q, z, residual = equations
    # Half the limit, from which on roots are not taken from p and q alone: rounded anew, it may be on the other side.
    far = jnp.abs(root.quick_scaled_residual(p, q, z, residual)) > root.near_limits(z.dtype)[2] / 2
    squares = tuple(square.value.reshape(-1) for square in root.squares(p, q))
    rows = [array.reshape(-1, array.shape[-1]) for array in (a, b)]
    plus, minus = replaced_where(
        far.reshape(-1), lambda a, b: squares_of_all(a, b, equations), rows, squares, least=LEAST_ROWS
    )
    return plus.reshape(z.shape), minus.reshape(z.shape)


def coefficients(a: Array, b: Array, equations: roots.Equations, squares: Squares = squares_of_all) -> Coefficients:
    """Those for the equations of ``a`` and ``b``."""
    _, _, z, residual = equations

    def exact_squares() -> roots.FarEquations:
        return (*squares(a, b, equations), z, residual), _scaled_equations

    def free_part(_: Array, radius: Array) -> Array:
        return radius * a.shape[-1] ** -0.5

    minus_v, free = roots.minus_roots(equations, lambda: equations, exact_squares, free_part, jnp.zeros_like(z))
    minus_t, _, gamma = root.stretched_coefficients(minus_v)
    sign, rest = -jnp.sign(minus_v), root.stretched_rest(-minus_v)
    return Coefficients(minus_t, gamma, sign, rest, free)


def _scaled_equations(plus: Array, minus: Array, z: Array, residual: Array | None) -> tuple[Array, Array, Array]:
    per_unit = 1 / (0.25 + (0.5 * plus + 0.5 * minus))
    # A quarter: the difference of two finite numbers must not overflow.
    quarter = (0.25 * z - 0.25 * plus) + 0.25 * minus if residual is None else 0.25 * residual
    return quarter * per_unit, plus, minus
