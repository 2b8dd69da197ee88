"""Projection onto the graph of a scalar function in jax.numpy: any platform."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

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
    x: Array,
    z: Array,
    residual: Array,
    curve_of: CurveOf,
    constants: Sequence[Array],
    *,
    of_any_shape: Callable[[], bool],
) -> tuple[Array, Array]:
    """The changes of ``x`` and ``z``; ``residual`` is ``z - f(x)``.

    ``of_any_shape`` says that the function takes some of the elements, with as many of each of its constants.
    """
    curve = curve_of(*constants)
    aim = _aim(curve, curve.anchors[0](x, z), x, z, residual)
    # How many steps each needs after the first: their errors are powers of the residual's part of the reach, the 3rd,
    # the 7th and the 15th.
    eps = float(jnp.finfo(x.dtype).eps)
    size, reach = jnp.abs(aim.residual), curve.reach(aim.anchor, curve.value(aim.anchor))
    size = jnp.where(aim.anchor == x, size, jnp.inf) if aim.anchor is not x else size
    beyond = [~(size <= limit * reach) for limit in (eps ** (1 / 3), eps ** (1 / 7), 1)]
    steps = jnp.asarray(1 + sum(b.astype(x.dtype) for b in beyond))
    far, hardest = beyond[-1], jnp.max(steps, initial=1)
    search = functools.partial(_searched, curve_of)

    def with_far_ones(near: _Place) -> _Place:
        operands = x, z, residual, *constants
        if not is_symbolic_dim(x.size) and SMALL < x.size < 2**31 and of_any_shape():  # places have 32 bits
            found = replaced_where(far.ravel(), search, *jax.tree.map(jnp.ravel, (operands, near)), least=LEAST_FAR)
            return jax.tree.map(lambda array: array.reshape(x.shape), found)
        return jax.tree.map(functools.partial(jnp.where, far), search(*operands), near)

    near = _first_step(curve, aim), *((aim.anchor,) if len(curve.anchors) > 1 else ())
    t, *anchor = replaced_if(hardest > NEAR_STEPS, with_far_ones, near)
    if anchor:
        aim = _aim(curve, anchor[0], x, z, residual)
    return _polished(curve, aim, t, steps, jnp.minimum(hardest, NEAR_STEPS))


def _aim(curve: Curve, anchor: Array, x: Array, z: Array, residual: Array) -> _Aim:
    """What is minimised from an anchor."""
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


def _newton_step(curve: Curve, aim: _Aim, t: Array, gaps: tuple[Array, Array]) -> tuple[Array, Array]:
    """Half the derivative of the squared distance, and what to divide it by for a step downhill."""
    (x_slope, z_slope), (x_bend, z_bend) = _slopes(curve, aim.anchor, t)
    x_gap, z_gap = gaps
    flat = x_slope**2 + z_slope**2
    curved = flat + x_gap * x_bend + z_gap * z_bend
    return x_gap * x_slope + z_gap * z_slope, jnp.where(curved > 0.1 * flat, curved, flat)


def _polished(curve: Curve, aim: _Aim, t: Array, steps: Array, most: Array) -> tuple[Array, Array]:
    """The changes of x and z after Newton steps, of each element its own number, ``most`` at the most."""

    def newton(k: Array, t: Array) -> Array:
        slope, divisor = _newton_step(curve, aim, t, _gaps(curve, aim, t))
        return jnp.where(k < steps, _inside(curve, aim.anchor, t - slope / divisor), t)

    t = lax.fori_loop(0, most.astype(jnp.int32), newton, t)
    (x_slope, z_slope), _ = _slopes(curve, aim.anchor, t)
    x_gap, z_gap = _gaps(curve, aim, t)
    # Where the curve is steep, the difference cancels; at a nearest point the gap is at right angles to the curve.
    upright = -x_gap * x_slope / jnp.where(z_slope == 0, 1, z_slope)
    steep = jnp.abs(z_slope) > jnp.abs(x_slope)
    _, height = curve.point(aim.anchor, t)
    rounded = jnp.minimum(jnp.abs(aim.residual), jnp.abs(height) + jnp.abs(aim.target))
    agree = jnp.abs(upright - z_gap) <= 16 * jnp.finfo(t.dtype).eps * rounded
    z_gap = jnp.where(steep & agree, upright, z_gap)
    # Never farther than the anchor.
    nearer = x_gap**2 + z_gap**2 <= (aim.offset**2 + aim.residual**2) * (1 + 8 * jnp.finfo(t.dtype).eps)
    return jnp.where(nearer, x_gap, aim.offset), jnp.where(nearer, z_gap, -aim.residual)


_Place: TypeAlias = tuple[Array, ...]
"""Points of curves: ``t``, and their anchors where a curve has several branches."""


def _searched(curve_of: CurveOf, x: Array, z: Array, residual: Array, *constants: Array) -> _Place:
    """About the nearest of the points found from several starts on all branches."""
    curve = curve_of(*constants)
    best = jnp.zeros_like(x), jnp.zeros_like(x), jnp.full_like(x, jnp.inf)
    for branch in curve.anchors:
        anchor = branch(x, z)
        aim = _aim(curve, anchor, x, z, residual)
        starts = curve.starts(anchor, z, aim.residual)
        # Its own valley, that of the best start, and another that may begin where f reaches z.
        chosen = jnp.stack([jnp.zeros_like(x), _best_start(curve, aim, starts), starts[PARTS - 1]])

        def search(k: Array, best: _Best, aim: _Aim = aim, chosen: Array = chosen) -> _Best:
            t, squared = _descended(curve, aim, _inside(curve, aim.anchor, chosen[k]))
            nearer = squared < best[2]
            return tuple(map(functools.partial(jnp.where, nearer), (t, aim.anchor, squared), best))  # type: ignore[return-value]

        best = lax.fori_loop(0, len(chosen), search, best)  # else all of it would be compiled for each start
    return best[:2] if len(curve.anchors) > 1 else best[:1]


_Best: TypeAlias = tuple[Array, Array, Array]
"""The place on its branch, the anchor and the squared distance of the nearest points so far."""


def _gaps(curve: Curve, aim: _Aim, t: Array) -> tuple[Array, Array]:
    """From ``x`` and ``z`` to the curve, each with the fewest rounding errors that there can be."""
    x_change, z_change = curve.changes(aim.anchor, t)
    _, height = curve.point(aim.anchor, t)
    smaller = jnp.abs(height) + jnp.abs(aim.target) < jnp.abs(z_change) + jnp.abs(aim.residual)
    return aim.offset + x_change, jnp.where(smaller, height - aim.target, z_change - aim.residual)


def _squared(gaps: tuple[Array, Array]) -> Array:
    """The squared distance."""
    squared = gaps[0] ** 2 + gaps[1] ** 2
    return jnp.where(jnp.isnan(squared), jnp.inf, squared)


def _best_start(curve: Curve, aim: _Aim, starts: Array) -> Array:
    """The nearest of the starts."""

    def keep_better(i: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        t = _inside(curve, aim.anchor, starts[i])
        squared = _squared(_gaps(curve, aim, t))
        better = squared < carry[1]
        return jnp.where(better, t, carry[0]), jnp.where(better, squared, carry[1])

    first = jnp.zeros_like(aim.anchor), jnp.full_like(aim.anchor, jnp.inf)
    return lax.fori_loop(0, starts.shape[0], keep_better, first)[0]


def _descended(curve: Curve, aim: _Aim, t: Array) -> tuple[Array, Array]:
    """Down from ``t`` to where steps that polish are enough, and the squared distance there.

    By Newton steps that are shortened where they lead up.
    """
    eps = float(jnp.finfo(t.dtype).eps)

    def step(carry: tuple[Array, Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array, Array]:
        k, t, squared, move, longest = carry
        new = _inside(curve, aim.anchor, t + move)
        gaps = _gaps(curve, aim, new)
        new_squared = _squared(gaps)
        slope, divisor = _newton_step(curve, aim, new, gaps)
        down = new_squared < squared
        longest = jnp.where(down, jnp.maximum(longest, 2 * jnp.abs(move)), jnp.abs(move) / 4)
        t, squared = jnp.where(down, new, t), jnp.where(down, new_squared, squared)
        move = jnp.where(down, jnp.clip(-slope / divisor, -longest, longest), move / 4)
        enough = jnp.maximum(eps**0.5 * jnp.abs(t), eps * jnp.minimum(jnp.sqrt(squared), 1))
        move = jnp.where(jnp.abs(move) <= enough, 0, move)  # one that is there stays: no other one tells in it
        return k + 1, t, squared, move, longest

    infinite = jnp.full_like(t, jnp.inf)
    start = jnp.zeros((), jnp.int32), t, infinite, jnp.zeros_like(t), infinite

    def goes_on(carry: tuple[Array, Array, Array, Array, Array]) -> Array:
        return (carry[0] == 0) | (carry[0] < FAR_STEPS) & jnp.any(jnp.abs(carry[3]) > 0)

    _, t, squared, *_ = lax.while_loop(goes_on, step, start)
    return t, squared
