"""Projection onto ``z = a . b`` in jax.numpy: any platform."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from pjax_kernels import root, roots


def bilinear_increments(a: Array, b: Array, z: Array, residual: Array | None = None) -> tuple[Array, Array, Array]:
    """The changes of ``a`` (..., N), ``b`` (..., N) and ``z`` (...)."""
    if a.shape[-1] == 0:  # the only point of the set has z = 0
        return a, b, -z
    p = jnp.sum(a * b, axis=-1) if residual is None else z - residual
    q = jnp.sum(a * a + b * b, axis=-1)
    found = coefficients(a, b, (p, q, z, residual))
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


def coefficients(a: Array, b: Array, equations: roots.Equations) -> Coefficients:
    """Those for the equations of ``a`` and ``b``."""
    _, _, z, residual = equations

    def exact_squares() -> roots.FarEquations:
        half_sum, half_difference = 0.5 * (a + b), 0.5 * (a - b)
        plus, minus = jnp.sum(half_sum * half_sum, axis=-1), jnp.sum(half_difference * half_difference, axis=-1)
        return (plus, minus, z, residual), _scaled_equations

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
