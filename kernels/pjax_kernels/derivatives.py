"""Derivatives of projections onto dot products: by the implicit function theorem, from the roots that are known.

With ``P = |a + b|^2/4`` and ``M = |a - b|^2/4`` the root ``t`` of ``P/(1 - t)^2 - M/(1 + t)^2 + t - z = 0`` moves by

    dt = (dz - dP/(1 - t)^2 + dM/(1 + t)^2) / (1 + 2 P/(1 - t)^3 + 2 M/(1 + t)^3)

Where the projection is set-valued, ``t`` is 1 or -1, and the part of ``a + b`` or ``a - b`` that is free has a length
that follows from the others and a direction that does not move.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from pjax_kernels.consensus import mean_change, squares
from pjax_kernels.dot_products import DotProducts, Tree
from pjax_kernels.root import BilinearRoot


def of_formula(increments_of: Callable[..., Any]) -> Callable[..., Any]:
    """Of a kernel whose increments are a formula: there is nothing to be told."""

    def formula(changes: Any, *operands: Any, **settings: Any) -> Any:
        del changes
        return increments_of(*operands, **settings)

    return formula


class _Growth(NamedTuple):
    """The root, and by what factors half the sum and half the difference of ``a`` and ``b`` change."""

    t: Array
    of_sum: Array  # t/(1 - t)
    of_difference: Array  # -t/(1 + t)
    radius: Array

    @property
    def root(self) -> BilinearRoot:
        """The same as factors of ``a`` and ``b``."""
        beta, gamma = 0.5 * (self.of_sum - self.of_difference), 0.5 * (self.of_sum + self.of_difference)
        return BilinearRoot(self.t, beta, gamma, self.radius)


def bilinear_formula(changes: tuple[Array, ...], a: Array, b: Array, z: Array) -> tuple[Array, Array, Array]:
    """The changes of ``a`` (..., N), ``b`` (..., N) and ``z`` (...)."""
    half_sum, half_difference = 0.5 * (a + b), 0.5 * (a - b)
    plus, minus = jnp.sum(half_sum * half_sum, axis=-1), jnp.sum(half_difference * half_difference, axis=-1)
    t, of_sum, of_difference, radius = _growth(-changes[-1], plus, minus, z)
    sum_part, difference_part = of_sum[..., None] * half_sum, of_difference[..., None] * half_difference
    free_part = (radius * max(a.shape[-1], 1) ** -0.5)[..., None]
    return (
        sum_part + difference_part + free_part,
        sum_part - difference_part + jnp.sign(t)[..., None] * free_part,
        -t,
    )


def consensus_formula(dots: DotProducts, z_change: Array, x: Tree, w: Tree, z: Array) -> tuple[Tree, Tree, Array]:
    """The mean changes of ``x`` and ``w``, and the change of ``z``."""
    q = jnp.broadcast_to(dots.of_x(squares(x)) + dots.of_w(squares(w)), z.shape)
    t, beta, gamma, radius = known_root(z_change, dots.product(x, w), q, z)
    free = radius / jnp.sqrt(jnp.maximum(jnp.asarray(dots.length, z.dtype), 1))
    from_w, from_x = dots.to_x(-beta, w), dots.to_w(-beta, x)
    free_x, free_w = dots.spread_x(free), dots.spread_w(jnp.sign(t) * free)
    x_change = jax.tree.map(mean_change, x, dots.spread_x(gamma), free_x, from_w, dots.x_copies)
    w_change = jax.tree.map(mean_change, w, dots.spread_w(gamma), free_w, from_x, dots.w_copies)
    return x_change, w_change, -t


def known_root(z_change: Array, p: Array, q: Array, z: Array) -> BilinearRoot:
    """The root for ``p = a . b``, ``q = |a|^2 + |b|^2`` and ``z``, given the change of ``z``; differentiable."""
    plus, minus = jnp.maximum(0.25 * q + 0.5 * p, 0), jnp.maximum(0.25 * q - 0.5 * p, 0)
    return _growth(-z_change, plus, minus, z).root


@jax.custom_jvp
def _growth(t: Array, plus: Array, minus: Array, z: Array) -> _Growth:
    """What follows from the root for ``P = plus``, ``M = minus``; a function of these and of ``z`` alone."""
    to_one, to_minus_one = _distances(t, plus, minus, z)
    up, down = _set_valued(t, plus, minus)
    squared_radius = jnp.where(up, z - 1 + 0.25 * minus, jnp.where(down, 0.25 * plus - z - 1, 0))
    return _Growth(
        t,
        of_sum=jnp.where(up, 0, t / _nonzero(to_one)),
        of_difference=jnp.where(down, 0, -t / _nonzero(to_minus_one)),
        radius=_root_of(squared_radius),
    )


@_growth.defjvp
def _(primals: tuple[Array, ...], tangents: tuple[Any, ...]) -> tuple[_Growth, _Growth]:
    t, plus, minus, z = primals
    _, d_plus, d_minus, d_z = tangents
    found = _growth(t, plus, minus, z)
    to_one, to_minus_one = map(_nonzero, _distances(t, plus, minus, z))
    up, down = _set_valued(t, plus, minus)
    # The equation, its slope times both distances, and the tangents: all over 1 + P + M, so that nothing overflows.
    unit = 1 / (1 + plus + minus)
    from_plus, from_minus = (unit * plus) / (to_one * to_one), (unit * minus) / (to_minus_one * to_minus_one)
    slope = unit * to_one * to_minus_one + 2 * (from_plus * to_minus_one + from_minus * to_one)
    pull = (unit * d_z - (unit * d_plus) / (to_one * to_one)) + (unit * d_minus) / (to_minus_one * to_minus_one)
    moves = jnp.where(up | down, 0, pull / _nonzero(slope))
    d_squared_radius = jnp.where(up, d_z + 0.25 * d_minus, jnp.where(down, 0.25 * d_plus - d_z, 0))
    radius = found.radius
    return found, _Growth(
        t=moves * (to_one * to_minus_one),
        of_sum=moves * (to_minus_one / to_one),
        of_difference=-moves * (to_one / to_minus_one),
        radius=jnp.where(radius > 0, d_squared_radius / _nonzero(2 * radius), 0),
    )


def _set_valued(t: Array, plus: Array, minus: Array) -> tuple[Array, Array]:
    """Where the pole that should stop the root is missing, at 1 and at -1."""
    return (t >= 1) & (plus <= 0), (t <= -1) & (minus <= 0)


def _distances(t: Array, plus: Array, minus: Array, z: Array) -> tuple[Array, Array]:
    """``1 - t`` and ``1 + t``, precise also where ``t`` is rounded to 1 or -1: there the equation gives them."""
    to_one, to_minus_one = 1 - t, 1 + t
    residual = z - t
    by_plus = _root_of(plus / _nonzero(residual + minus / _nonzero(to_minus_one * to_minus_one)))
    by_minus = _root_of(minus / _nonzero(plus / _nonzero(to_one * to_one) - residual))
    size = jnp.abs(residual) + plus + minus
    return (
        jnp.where(size * (to_one * to_one * to_one) < plus, by_plus, to_one),
        jnp.where(size * (to_minus_one * to_minus_one * to_minus_one) < minus, by_minus, to_minus_one),
    )


def _nonzero(x: Array) -> Array:
    """``x``, or 1 where it is 0: what is divided by it is not used there."""
    return jnp.where(x == 0, 1, x)


def _root_of(x: Array) -> Array:
    """The square root, 0 where there is none."""
    return jnp.where(x > 0, jnp.sqrt(jnp.where(x > 0, x, 1)), 0)
