"""Projection onto the graph of a scalar function in jax.numpy: any platform."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.export import is_symbolic_dim

from pjax_kernels.elementwise.curves import PARTS, Curve
from pjax_kernels.far import replaced_where
from pjax_kernels.roots import replaced_if

NEAR_STEPS = 3
"""Newton steps that are enough up to a curve's reach."""

FAR_STEPS = 20
"""Steps of the damped iteration from the best of the starts."""

SMALL = 1 << 13
"""Elements of which all are searched for where one is far."""

LEAST_FAR = 1 << 10
"""Far ones are gathered in blocks of so many at least."""


class _Aim(NamedTuple):
    """What is minimised along a curve from ``anchor``: ``(offset + change of x)^2 + (change of z - residual)^2``."""

    anchor: Array
    offset: Array
    residual: Array
    target: Array
    """The estimate of ``z``: the residual may know better how far it is from the anchor."""


CurveOf: TypeAlias = Callable[..., Curve]
"""The curve of a function, given its constants."""


def smooth_increments(
    x: Array, z: Array, residual: Array, curve_of: CurveOf, constants: Sequence[Array] = (), *, of_any_shape: bool
) -> tuple[Array, Array]:
    """The changes of ``x`` and ``z``; ``residual`` is ``z - f(x)``.

    ``of_any_shape`` says that the function takes some of the elements, with as many of each of its constants.
    """
    curve = curve_of(*constants)
    aim = _aim(curve, curve.anchors[0], x, z, residual)
    # How many steps each needs after the first: their errors are powers of the residual's part of the reach, the 3rd,
    # the 7th and the 15th.
    eps = float(jnp.finfo(x.dtype).eps)
    size, reach = jnp.abs(aim.residual), curve.reach(aim.anchor, curve.value(aim.anchor))
    size = jnp.where(aim.anchor == x, size, jnp.inf) if aim.anchor is not x else size
    beyond = [~(size <= limit * reach) for limit in (eps ** (1 / 3), eps ** (1 / 7), 1)]
    steps = 1 + sum(b.astype(x.dtype) for b in beyond)
    far, hardest = beyond[-1], jnp.max(steps, initial=1)
    changes = _polished(curve, aim, _first_step(curve, aim), steps, jnp.minimum(hardest, NEAR_STEPS))

    def search(x: Array, z: Array, residual: Array, near: tuple[Array, Array], *constants: Array) -> Any:
        return _far_changes(curve_of(*constants), x, z, residual, near)

    def with_far_ones(near: tuple[Array, Array]) -> Any:
        if of_any_shape and not is_symbolic_dim(x.size) and SMALL < x.size < 2**31:  # places have 32 bits
            operands = jax.tree.map(jnp.ravel, (x, z, residual, near, *constants))
            found = replaced_where(far.ravel(), search, operands, operands[3], least=LEAST_FAR)
            return jax.tree.map(lambda change: change.reshape(x.shape), found)
        return tuple(map(functools.partial(jnp.where, far), search(x, z, residual, near, *constants), near))

    x_change, z_change = replaced_if(hardest > NEAR_STEPS, with_far_ones, changes)
    return x_change, z_change


def _aim(curve: Curve, branch: Callable[[Array, Array], Array], x: Array, z: Array, residual: Array) -> _Aim:
    """What is minimised from the anchor on a branch."""
    anchor = branch(x, z)
    if anchor is x:
        return _Aim(x, jnp.zeros_like(x), residual, z)
    inside = anchor == x
    return _Aim(anchor, jnp.where(inside, 0, anchor - x), jnp.where(inside, residual, z - curve.value(anchor)), z)


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
    x_gap, z_gap = _gaps(curve, aim, t)
    flat = x_slope**2 + z_slope**2
    curved = flat + x_gap * x_bend + z_gap * z_bend
    return x_gap * x_slope + z_gap * z_slope, jnp.where(curved > 0.1 * flat, curved, flat)


def _polished(
    curve: Curve, aim: _Aim, t: Array, steps: float | Array = NEAR_STEPS, most: float | Array = NEAR_STEPS
) -> tuple[Array, Array]:
    """The changes of x and z after Newton steps, of each element its own number, ``most`` at the most."""

    def newton(k: Array, t: Array) -> Array:
        slope, divisor = _newton_step(curve, aim, t)
        return jnp.where(k < steps, _inside(curve, aim.anchor, t - slope / divisor), t)

    t = lax.fori_loop(0, jnp.asarray(most, jnp.int32), newton, t)
    (x_slope, z_slope), _ = _slopes(curve, aim.anchor, t)
    x_gap, z_gap = _gaps(curve, aim, t)
    # Where the curve is steep, the difference cancels; at a nearest point the gap is at right angles to the curve.
    upright = -x_gap * x_slope / jnp.where(z_slope == 0, 1, z_slope)
    steep = jnp.abs(z_slope) > jnp.abs(x_slope)
    _, height = curve.point(aim.anchor, t)
    rounded = jnp.minimum(jnp.abs(aim.residual), jnp.abs(height) + jnp.abs(aim.target))
    agree = jnp.abs(upright - z_gap) <= 16 * jnp.finfo(t.dtype).eps * rounded
    return x_gap, jnp.where(steep & agree, upright, z_gap)


def _far_changes(curve: Curve, x: Array, z: Array, residual: Array, near: tuple[Array, Array]) -> tuple[Array, Array]:
    """The nearest of the changes found from several starts on all branches, and of those given."""
    first, *others = (_aim(curve, branch, x, z, residual) for branch in curve.anchors)
    best = first.offset, -first.residual, first.offset**2 + first.residual**2
    best = _nearer(best, near)
    for aim in (first, *others):
        starts = curve.starts(aim.anchor, z, aim.residual)
        # Where f reaches z another valley may begin than that of the best start.
        chosen = _best_start(curve, aim, starts), _inside(curve, aim.anchor, starts[PARTS - 1])

        def search(k: Array, best: _Best, aim: _Aim = aim, chosen: tuple[Array, Array] = chosen) -> _Best:
            t = _descended(curve, aim, jnp.where(k == 0, *chosen))
            return _nearer(best, _polished(curve, aim, t))

        best = lax.fori_loop(0, len(chosen), search, best)  # else all of it would be compiled for each start
    return best[:2]


_Best: TypeAlias = tuple[Array, Array, Array]
"""The changes of x and z that are the smallest so far, and the square of their norm."""


def _nearer(best: _Best, changes: tuple[Array, Array]) -> _Best:
    """The smaller changes; of two that are equally small up to rounding, the later ones have taken more steps."""
    squared = changes[0] ** 2 + changes[1] ** 2
    nearer = squared <= best[2] * (1 + 8 * jnp.finfo(squared.dtype).eps)
    return tuple(jnp.where(nearer, *pair) for pair in zip((*changes, squared), best, strict=True))  # type: ignore[return-value]


def _gaps(curve: Curve, aim: _Aim, t: Array) -> tuple[Array, Array]:
    """From ``x`` and ``z`` to the curve, each with the fewest rounding errors that there can be."""
    x_change, z_change = curve.changes(aim.anchor, t)
    _, height = curve.point(aim.anchor, t)
    smaller = jnp.abs(height) + jnp.abs(aim.target) < jnp.abs(z_change) + jnp.abs(aim.residual)
    return aim.offset + x_change, jnp.where(smaller, height - aim.target, z_change - aim.residual)


def _squared(curve: Curve, aim: _Aim, t: Array) -> Array:
    """The squared distance at ``t``."""
    x_gap, z_gap = _gaps(curve, aim, t)
    squared = x_gap**2 + z_gap**2
    return jnp.where(jnp.isnan(squared), jnp.inf, squared)


def _best_start(curve: Curve, aim: _Aim, starts: Array) -> Array:
    """The nearest of the starts, though ``x`` may be nearer still: its own valley has been searched."""

    def keep_better(i: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        t = _inside(curve, aim.anchor, starts[i])
        squared = _squared(curve, aim, t)
        better = squared < carry[1]
        return jnp.where(better, t, carry[0]), jnp.where(better, squared, carry[1])

    first = jnp.zeros_like(aim.anchor), jnp.full_like(aim.anchor, jnp.inf)
    return lax.fori_loop(0, starts.shape[0], keep_better, first)[0]


def _descended(curve: Curve, aim: _Aim, t: Array) -> Array:
    """Down from ``t``, by Newton steps that are shortened where they lead up, until those that polish are enough."""
    enough = float(jnp.finfo(t.dtype).eps) ** 0.5

    def step(carry: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
        k, t, squared, longest = carry
        slope, divisor = _newton_step(curve, aim, t)
        move = jnp.clip(-slope / divisor, -longest, longest)
        new = _inside(curve, aim.anchor, t + move)
        new_squared = _squared(curve, aim, new)
        down = new_squared < squared
        longest = jnp.where(down, jnp.maximum(longest, 2 * jnp.abs(move)), jnp.abs(move) / 4)
        longest = jnp.where(jnp.abs(move) <= enough * jnp.abs(t), 0, longest)  # it stays: no other one tells in it
        return k + 1, jnp.where(down, new, t), jnp.where(down, new_squared, squared), longest

    start = jnp.zeros((), jnp.int32), t, _squared(curve, aim, t), jnp.full_like(t, jnp.inf)
    return lax.while_loop(lambda carry: (carry[0] < FAR_STEPS) & jnp.any(carry[3] > 0), step, start)[1]
