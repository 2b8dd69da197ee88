"""The root that moves a dot product to its margin, and the nearer sign: one definition for every implementation.

The nearest point to ``(a, b)`` with ``s a . b = margin``, for a sign ``s``, is ``a' = (a + v s b)/(1 - v^2)``,
``b' = (b + v s a)/(1 - v^2)``, where ``v`` in [0, 1] is the root of the increasing function

    P/(1 - v)^2 - M/(1 + v)^2 - margin,        P = |a + s b|^2/4,   M = |a - s b|^2/4,   s a . b = P - M

(Elser, Lal, arXiv 2602.17493): that of :mod:`pjax_kernels.root` with the output held.  The squared distance is
``2 v^2 (margin + 2 M/(1 + v)^2)``.  Where ``P = 0`` the projection is set-valued, and ``v = 1``; so it is taken to be
where ``P`` is so small that it makes no difference to the distance, and steps towards the root would underflow.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

FAR = 0.75
"""Below this bound of ``1 - v`` the root is found as that."""

STEPS = (2, 3)
"""Halley steps in float32 and in float64: over all inputs they leave errors of 8e-8 and 1e-15."""

NEGLIGIBLE = 2.0**20
"""In units of the least normal number: below so much of ``1 + margin + M/4`` ``P`` counts as 0."""


class ThresholdRoot(NamedTuple):
    """The nearer sign, and the coefficients of the increments that lead to it.

    ``a' - a = gamma a + beta b`` and ``b' - b = gamma b + beta a``.  Where the projection is set-valued
    (``a = -sign b``), these halve ``a`` and ``b``, and for every unit vector ``e`` a nearest point is reached by adding
    ``radius e`` to ``a`` and ``sign radius e`` to ``b``.
    """

    sign: Array
    beta: Array
    gamma: Array
    radius: Array


class _ToMargin(NamedTuple):
    """The coefficients for one sign, and the squared distance that ``a`` and ``b`` move."""

    beta: Array
    gamma: Array
    radius: Array
    squared_distance: Array


def threshold_root(plus: Array, minus: Array, z: Array, margin: Array | float) -> ThresholdRoot:
    """The coefficients of the projection onto ``{z = sgn(a . b), |a . b| >= margin}``, for who holds the norms.

    Args:
        plus: ``|a + b|^2/4``, any shape.
        minus: ``|a - b|^2/4``, the same shape.
        z: the estimate of the sign, the same shape.
        margin: a positive number.

    Returns:
        A :class:`ThresholdRoot` of that shape.  Where both signs are as near, it is 1; where an argument is NaN, so is
        the sign.

    Source: Elser, Lal, arXiv 2602.17493, section III.
    """
    up, down = _to_margin(plus, minus, margin), _to_margin(minus, plus, margin)
    # The squared distances of z from 1 and from -1 differ by 4 z.
    excess = up.squared_distance - down.squared_distance - 4 * z
    sign = jnp.where(excess <= 0, jnp.ones_like(z), jnp.where(excess > 0, -jnp.ones_like(z), excess))
    beta, gamma, radius = (jnp.where(sign > 0, of_up, of_down) for of_up, of_down in zip(up[:3], down[:3], strict=True))
    return ThresholdRoot(sign, sign * beta, gamma, radius)


@jax.custom_jvp
def _to_margin(pole: Array, other: Array, margin: Array | float) -> _ToMargin:
    """How to reach the margin, for ``P = pole`` and ``M = other``; nothing moves where it is reached."""
    v, in_units, slope, set_valued = _root_and_poles(pole, other, margin)
    beta = jnp.where(set_valued, 0.5, v * in_units)
    gamma = jnp.where(set_valued, 0, v * beta)
    radius = jnp.where(set_valued, jnp.sqrt(margin + 0.25 * other), 0)
    return _ToMargin(beta, gamma, radius, 2 * v * v * (margin + 2 * other * slope * slope))


@_to_margin.defjvp
def _(primals: tuple[Array, ...], tangents: tuple[Array, ...]) -> tuple[_ToMargin, _ToMargin]:
    """By the implicit function theorem; the squared distance is only compared."""
    pole, other, margin = primals
    d_pole, d_other, d_margin = tangents
    found = _to_margin(*primals)
    v, in_units, slope, set_valued = _root_and_poles(*primals)
    free = set_valued | (v == 0)
    one_less_v = jnp.where(free, 1, 1 / ((1 + v) * in_units))
    from_other = other * slope * slope
    pull = one_less_v * (d_margin + slope * slope * d_other) - d_pole / one_less_v
    d_v = pull / jnp.where(free, 1, 2 * (margin + from_other) + 2 * from_other * slope * one_less_v)
    d_v = jnp.where(free, 0, d_v * in_units * in_units)
    radius = jnp.where(set_valued, found.radius, 1)
    d_radius = jnp.where(set_valued, (d_margin + 0.25 * d_other) / (2 * radius), 0)
    return found, _ToMargin((1 + v * v) * d_v, 2 * v * d_v, d_radius, jnp.zeros_like(found.squared_distance))


def _root_and_poles(pole: Array, other: Array, margin: Array | float) -> tuple[Array, Array, Array, Array]:
    """``v``, ``1/(1 - v^2)``, ``1/(1 + v)``, and where the projection is set-valued; 0, 1, 1 where nothing moves."""
    v, one_less_v = _root(pole, other, margin)
    reached = pole - other >= margin
    negligible = NEGLIGIBLE * float(jnp.finfo(pole.dtype).tiny) * (1 + (margin + 0.25 * other))
    set_valued = (pole <= negligible) & ~reached
    v = jnp.where(reached, 0, jnp.where(set_valued, 1, v))
    in_units = 1 / jnp.where(reached | set_valued, 1, one_less_v * (1 + v))
    return v, in_units, 1 / (1 + v), set_valued


def _root(pole: Array, other: Array, margin: Array | float) -> tuple[Array, Array]:
    """``v`` and ``1 - v`` where the margin is not reached; any numbers where it is."""
    # Cleared of its denominators the equation is a quartic.  Near roots are found from it in v, far ones in 1 - v, so
    # that either keeps its relative precision; both by the same steps, with coefficients of their own.
    bound = jnp.sqrt(pole / (margin + 0.25 * other))  # of 1 - v, which is sqrt(pole/(margin + other/(1 + v)^2))
    is_far = bound < FAR
    residual, q = margin - (pole - other), 2 * (pole + other)
    quartic = (
        jnp.where(is_far, -4 * pole, -residual),
        jnp.where(is_far, 4 * pole, q),
        jnp.where(is_far, 4 * margin + (other - pole), 3 * margin - residual),
        jnp.where(is_far, -4 * margin, 0),
        jnp.where(is_far, margin, -margin),
    )
    root = jnp.where(is_far, bound, jnp.minimum(residual / q, 0.5))
    for _ in range(STEPS[jnp.finfo(pole.dtype).bits > 32]):
        root = _halley_step(root, *quartic)
    return jnp.where(is_far, 1 - root, root), jnp.where(is_far, root, 1 - root)


def _halley_step(x: Array, c0: Array, c1: Array, c2: Array, c3: Array, c4: Array) -> Array:
    """One step towards a root of ``c0 + c1 x + c2 x^2 + c3 x^3 + c4 x^4``."""
    f = c0 + x * (c1 + x * (c2 + x * (c3 + x * c4)))
    f1 = c1 + x * (2 * c2 + x * (3 * c3 + x * (4 * c4)))
    f2 = c2 + x * (3 * c3 + x * (6 * c4))  # half the second derivative
    return x - f * f1 / (f1 * f1 - f * f2)
