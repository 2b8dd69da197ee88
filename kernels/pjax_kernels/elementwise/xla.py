"""Projection onto the graph of a scalar function in jax.numpy: any platform."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from pjax_kernels.elementwise.curves import Curve
from pjax_kernels.roots import replaced_if

NEAR_STEPS = 3
"""Newton steps that near points take."""

FAR_STEPS = 20
"""Steps of the damped iteration from the best of the starts."""


class _Aim(NamedTuple):
    """What is minimised along a curve from ``anchor``: ``(offset + change of x)^2 + (change of z - residual)^2``."""

    anchor: Array
    offset: Array
    residual: Array


def smooth_increments(x: Array, z: Array, residual: Array, curve: Curve) -> tuple[Array, Array]:
    """The changes of ``x`` and ``z``; ``residual`` is ``z - f(x)``."""
    anchor = curve.anchors[0](x, z)
    inside = anchor == x
    aim = _Aim(anchor, jnp.where(inside, 0, anchor - x), jnp.where(inside, residual, z - curve.value(anchor)))
    near = inside & (jnp.abs(residual) <= curve.reach(anchor, curve.value(anchor)))
    changes = _polished(curve, aim, _first_step(curve, aim))

    def with_far_ones(near_changes: tuple[Array, Array]) -> tuple[Array, Array]:
        far = _far_changes(curve, x, z, aim, near_changes)
        return tuple(jnp.where(near, *pair) for pair in zip(near_changes, far, strict=True))  # type: ignore[return-value]

    x_change, z_change = replaced_if(~jnp.all(near), with_far_ones, changes)
    return x_change, z_change


def _slopes(curve: Curve, anchor: Array, t: Array) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """First and second derivatives of the curve."""

    def first(t: Array) -> tuple[Array, Array]:
        return jax.jvp(functools.partial(curve.point, anchor), (t,), (jnp.ones_like(t),))[1]

    return jax.jvp(first, (t,), (jnp.ones_like(t),))


def _first_step(curve: Curve, aim: _Aim) -> Array:
    """To the nearest point of the tangent."""
    (x_slope, z_slope), _ = _slopes(curve, aim.anchor, jnp.zeros_like(aim.anchor))
    step = (aim.residual * z_slope - aim.offset * x_slope) / (x_slope**2 + z_slope**2)
    return _inside(curve, aim.anchor, step)


def _inside(curve: Curve, anchor: Array, t: Array) -> Array:
    return t if curve.lowest is None else jnp.maximum(t, curve.lowest(anchor))


def _newton_step(curve: Curve, aim: _Aim, t: Array) -> tuple[Array, Array]:
    """Half the derivative of the squared distance, and what to divide it by for a step downhill."""
    (x_slope, z_slope), (x_bend, z_bend) = _slopes(curve, aim.anchor, t)
    x_change, z_change = curve.changes(aim.anchor, t)
    x_gap, z_gap = aim.offset + x_change, z_change - aim.residual
    flat = x_slope**2 + z_slope**2
    curved = flat + x_gap * x_bend + z_gap * z_bend
    return x_gap * x_slope + z_gap * z_slope, jnp.where(curved > 0.1 * flat, curved, flat)


def _polished(curve: Curve, aim: _Aim, t: Array) -> tuple[Array, Array]:
    """The changes of x and z after a few Newton steps."""

    def newton(_: int, t: Array) -> Array:
        slope, divisor = _newton_step(curve, aim, t)
        return _inside(curve, aim.anchor, t - slope / divisor)

    t = lax.fori_loop(0, NEAR_STEPS, newton, t, unroll=True)
    (x_slope, z_slope), _ = _slopes(curve, aim.anchor, t)
    x_change, z_change = curve.changes(aim.anchor, t)
    x_gap, z_gap = aim.offset + x_change, z_change - aim.residual
    # Where the curve is steep, the difference cancels; at a nearest point the gap is at right angles to the curve.
    upright = -x_gap * x_slope / jnp.where(z_slope == 0, 1, z_slope)
    steep = jnp.abs(z_slope) > jnp.abs(x_slope)
    agree = jnp.abs(upright - z_gap) <= 16 * jnp.finfo(t.dtype).eps * jnp.abs(aim.residual)
    return x_gap, jnp.where(steep & agree, upright, z_gap)


def _far_changes(curve: Curve, x: Array, z: Array, aim: _Aim, near_changes: tuple[Array, Array]) -> tuple[Array, Array]:
    """The nearest of the changes found from several starts on all branches, and of those given."""
    stay = jnp.where(aim.offset == 0, aim.residual**2, jnp.inf)
    best = jnp.zeros_like(x), -aim.residual
    distance = stay
    found = [near_changes]
    for branch in curve.anchors:
        anchor = branch(x, z)
        own = jnp.where(anchor == aim.anchor, aim.residual, z - curve.value(anchor))
        branch_aim = _Aim(anchor, jnp.where(anchor == x, 0, anchor - x), own)
        found.append(_polished(curve, branch_aim, _descended(curve, branch_aim, _best_start(curve, z, branch_aim))))
    for x_change, z_change in found:
        squared = x_change**2 + z_change**2
        nearer = squared < distance
        best = jnp.where(nearer, x_change, best[0]), jnp.where(nearer, z_change, best[1])
        distance = jnp.where(nearer, squared, distance)
    return best


def _squared(curve: Curve, aim: _Aim, t: Array) -> Array:
    """The squared distance at ``t`` less that of the anchor."""
    x_change, z_change = curve.changes(aim.anchor, t)
    squared = x_change * (x_change + 2 * aim.offset) + z_change * (z_change - 2 * aim.residual)
    return jnp.where(jnp.isnan(squared), jnp.inf, squared)


def _best_start(curve: Curve, z: Array, aim: _Aim) -> Array:
    starts = curve.starts(aim.anchor, z, aim.residual)

    def keep_better(i: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        t = _inside(curve, aim.anchor, starts[i])
        squared = _squared(curve, aim, t)
        better = squared < carry[1]
        return jnp.where(better, t, carry[0]), jnp.where(better, squared, carry[1])

    zero = jnp.zeros_like(aim.anchor)
    return lax.fori_loop(0, starts.shape[0], keep_better, (zero, zero))[0]


def _descended(curve: Curve, aim: _Aim, t: Array) -> Array:
    """Down from ``t``, by Newton steps that are shortened where they lead up."""

    def step(_: int, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        t, squared, longest = carry
        slope, divisor = _newton_step(curve, aim, t)
        move = jnp.clip(-slope / divisor, -longest, longest)
        new = _inside(curve, aim.anchor, t + move)
        new_squared = _squared(curve, aim, new)
        down = new_squared < squared
        longest = jnp.where(down, jnp.maximum(longest, 2 * jnp.abs(move)), jnp.abs(move) / 4)
        return jnp.where(down, new, t), jnp.where(down, new_squared, squared), longest

    start = t, _squared(curve, aim, t), jnp.full_like(t, jnp.inf)
    return lax.fori_loop(0, FAR_STEPS, step, start)[0]
