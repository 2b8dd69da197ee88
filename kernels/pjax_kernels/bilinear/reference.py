"""Textbook projection onto ``z = a . b``: bisection, independent of what :mod:`pjax_kernels.root` computes."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from pjax_kernels.root import BilinearRoot

BISECTIONS = 250


def bilinear_increments(a: Array, b: Array, z: Array, residual: Array | None = None) -> tuple[Array, Array, Array]:
    """The changes of ``a`` (..., N), ``b`` (..., N) and ``z`` (...)."""
    if a.shape[-1] == 0:  # the only point of the set has z = 0
        return a, b, -z
    half_sum, half_difference = (a + b) / 2, (a - b) / 2
    found = _halves(half_sum, half_difference, z - jnp.sum(a * b, axis=-1) if residual is None else residual)
    sum_part = found.sum_change[..., None] * half_sum
    difference_part = found.difference_change[..., None] * half_difference
    free_part = found.radius[..., None] * jnp.full_like(a, max(a.shape[-1], 1) ** -0.5)
    return (
        sum_part + difference_part + free_part,
        sum_part - difference_part + found.t[..., None] * free_part,
        -found.t,
    )


def bilinear_root(a: Array, b: Array, z: Array, residual: Array | None = None) -> BilinearRoot:
    """The root of every row and the coefficients of the increments."""
    if a.shape[-1] == 0:
        return BilinearRoot(z, *(jnp.zeros_like(z),) * 3)
    found = _halves((a + b) / 2, (a - b) / 2, z - jnp.sum(a * b, axis=-1) if residual is None else residual)
    gamma, beta = (found.sum_change + s * found.difference_change for s in (1, -1))
    return BilinearRoot(found.t, beta / 2, gamma / 2, found.radius)


class _Halves(NamedTuple):
    """By what factors half the sum and half the difference of ``a`` and ``b`` change."""

    t: Array
    sum_change: Array
    difference_change: Array
    radius: Array


def _halves(half_sum: Array, half_difference: Array, residual: Array) -> _Halves:
    """The root by bisection, and what follows from it; ``residual`` is ``z - a . b``."""
    plus, minus = jnp.sum(half_sum**2, axis=-1), jnp.sum(half_difference**2, axis=-1)
    x = _root(plus, minus, residual)
    beyond_one = (plus == 0) & (residual >= 1 + 3 / 4 * minus)
    beyond_minus_one = (minus == 0) & (-residual >= 1 + 3 / 4 * plus)
    t = jnp.where(beyond_one, 1, jnp.where(beyond_minus_one, -1, jnp.tanh(x / 2)))

    # a' + b' = (a + b)/(1 - t) and a' - b' = (a - b)/(1 + t), with 1 - t = 2/(1 + e^x) and 1 + t = 2/(1 + e^-x).
    sum_change = jnp.where(beyond_one, 0, jnp.where(beyond_minus_one, -1 / 2, jnp.expm1(x) / 2))
    difference_change = jnp.where(beyond_minus_one, 0, jnp.where(beyond_one, -1 / 2, jnp.expm1(-x) / 2))
    radius = jnp.where(beyond_one, residual - 1 - 3 / 4 * minus, 0)
    radius = jnp.where(beyond_minus_one, -residual - 1 - 3 / 4 * plus, radius)
    return _Halves(t, sum_change, difference_change, jnp.sqrt(radius))


def _root(plus: Array, minus: Array, residual: Array) -> Array:
    """``x`` with ``t = tanh(x/2)``, by bisection between the ends of what exp can hold."""
    limit = jnp.log(jnp.finfo(residual.dtype).max) / 2 - 0.1

    def too_large(x: Array) -> Array:
        grow, shrink = jnp.expm1(x), jnp.expm1(-x)
        from_plus = plus * grow * (grow + 4) / 4
        from_minus = minus * shrink * (shrink + 4) / 4
        return from_plus - from_minus + jnp.tanh(x / 2) > residual

    def halve(_: int, bracket: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bracket
        middle = (low + high) / 2
        above = too_large(middle)
        return jnp.where(above, low, middle), jnp.where(above, middle, high)

    start = (jnp.full_like(residual, -limit), jnp.full_like(residual, limit))
    low, high = lax.fori_loop(0, BISECTIONS, halve, start)
    return jnp.where(residual == 0, 0, (low + high) / 2)
