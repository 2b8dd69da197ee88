"""Smooth functions of one array, each of whose outputs may depend on many of its entries, such as softmax."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jax import Array, lax

from pjax_core.operations.primitive import Primitive
from pjax_core.operations.rows import Rows, rows_of

INNER_STEPS = 4
"""Steps of conjugate gradients for the multipliers of one linearisation."""

OUTER_STEPS = 8
"""Linearisations, where a residual is so large that one is not enough."""

PARTS = 1.0, 0.3, 0.05
"""Of the way to the nearest point of a linearisation, tried one after the other."""

_Point: TypeAlias = tuple[Array, Array, Array]
"""The changes of an argument and of its output, and the squared length of both in each row."""


def smooth_function(
    name: str, forward: Callable[..., Array], stopping: Callable[..., Array] | None = None
) -> Primitive:
    """The operation ``z = forward(x, *data)``, projected onto by linearisation, row by row.

    A small residual is projected to first order.  For a larger one the point found is never farther than ``x`` with its
    own output, and is the nearest where the function is not bent much between them.  Directions go by the derivatives
    of ``stopping``, the same function with ``stop_gradient`` in it.
    """

    def project(inputs: tuple[Array, ...], output: Array, residual: Array | None) -> tuple[tuple[Array], Array]:
        function, x = _of_first(forward, inputs)
        start = function(x)
        residual = output - start if residual is None else residual.astype(x.dtype)
        change, output_change = _nearest(function, x, start, residual)
        return (change,), output_change

    def shares(*inputs: Array) -> tuple[Array, ...]:
        """By the mean square of what the function makes of a change of all entries."""
        function, x = _of_first(stopping or forward, inputs)
        _, moved = jax.jvp(function, (x,), (_signs(x),))
        return (1 / (1 + jnp.mean(moved**2)),) * len(inputs)

    def project_tangent(inputs: tuple[Array, ...], residual: Array) -> tuple[tuple[Array], Array]:
        """As if each entry were asked as much more as its row hands on less than the mean."""
        return _along_derivative(*_of_first(stopping or forward, inputs), shares(*inputs)[0], residual)

    def increment(starts: tuple[Array, ...], changes: tuple[Array | None, ...]) -> Array:
        function, x = _of_first(forward, starts)
        change = jnp.asarray(changes[0]).astype(x.dtype)
        start, first_order = jax.jvp(function, (x,), (change,))
        rows = rows_of(function, x)
        return jnp.where(
            rows.like_z(_row_is_small(rows, first_order), start), first_order, function(x + change) - start
        )

    return Primitive(
        name, forward, project, increment=increment, project_tangent=project_tangent, shares=shares, moving=1
    )


def reverse_function(name: str, forward: Callable[..., Array]) -> Primitive:
    """The operation ``z = forward(x, *data)`` of a function whose derivative is known in reverse alone.

    As ``custom_vjp`` gives it.  Projected along the derivative, by as much as comes nearest of some parts of the way.
    """

    def shares(*inputs: Array) -> tuple[Array, ...]:
        """By the mean square of what is asked of the entries for each output, from signs that have no pattern."""
        function, x = _of_first(forward, inputs)
        z, backwards = jax.vjp(function, x)
        (asked,) = backwards(_signs(z))
        return (1 / (1 + jnp.sum(asked**2) / max(z.size, 1)),) * len(inputs)

    def project_tangent(inputs: tuple[Array, ...], residual: Array) -> tuple[tuple[Array], Array]:
        return _along_derivative(*_of_first(forward, inputs), shares(*inputs)[0], residual)

    def project(inputs: tuple[Array, ...], output: Array, residual: Array | None) -> tuple[tuple[Array], Array]:
        function, x = _of_first(forward, inputs)
        start, rows = function(x), rows_of(function, x)
        residual = output - start if residual is None else residual.astype(x.dtype)
        at = functools.partial(_point_at, function, rows, x, start, residual)
        (target,), output_change = project_tangent(inputs, residual)
        small = _row_is_small(rows, residual)

        def nearer(k: Array, point: _Point) -> _Point:
            new = at(jnp.asarray(PARTS, x.dtype)[k] * target)
            return _where(rows, new[2] < point[2], new, point)

        nearest = lax.fori_loop(0, jnp.where(jnp.all(small), 0, len(PARTS)), nearer, at(jnp.zeros_like(x)))
        change, output_change, _ = _where(rows, small, (target, output_change, nearest[2]), nearest)
        return (change,), output_change

    def increment(starts: tuple[Array, ...], changes: tuple[Array | None, ...]) -> Array:
        """To first order by a difference over a longer way, both ways, where a change is small."""
        function, x = _of_first(forward, starts)
        change, rows, start = jnp.asarray(changes[0]).astype(x.dtype), rows_of(function, x), function(x)
        size = rows.sum_x(change**2) ** 0.5
        enough = jnp.finfo(x.dtype).eps ** (1 / 3) * (1 + rows.sum_x(x**2) ** 0.5)
        times = enough / jnp.where(size > 0, size, 1)
        step = rows.like_x(times, x) * change
        first_order = (function(x + step) - function(x - step)) / (2 * rows.like_z(times, start))
        return jnp.where(rows.like_z(size < enough, start), first_order, function(x + change) - start)

    return Primitive(
        name, forward, project, increment=increment, project_tangent=project_tangent, shares=shares, moving=1
    )


def _along_derivative(
    function: Callable[[Array], Array], x: Array, share: Array, residual: Array
) -> tuple[tuple[Array], Array]:
    """The changes that hand on a share of the residual."""
    multiplier = share * residual.astype(x.dtype)
    return jax.vjp(function, x)[1](multiplier), -multiplier


def _signs(x: Array) -> Array:
    """Signs for all entries that have no pattern."""
    places: Array = jnp.zeros(x.shape, x.dtype)
    for axis in range(x.ndim):
        places = places + (axis + 1.6) * lax.broadcasted_iota(x.dtype, x.shape, axis)
    return jnp.where(jnp.sin(12.9898 * places + 1) < 0, -1, 1).astype(x.dtype)


def _of_first(forward: Callable[..., Array], inputs: tuple[Array, ...]) -> tuple[Callable[[Array], Array], Array]:
    """The function of the first input, and that input, in float32 or wider."""
    x, *data = map(widened, inputs)
    return lambda x: forward(x, *data), x


def widened(array: Array) -> Array:
    """In float32 or wider; integers and truth values as they are."""
    if not jnp.issubdtype(array.dtype, jnp.floating):
        return array
    return array.astype(jnp.promote_types(array.dtype, jnp.float32))


def _row_is_small(rows: Rows, residual: Array) -> Array:
    """Whether what is beyond first order is lost in rounding."""
    return rows.largest_z(residual) <= jnp.finfo(residual.dtype).eps ** 0.5


def _nearest(function: Callable[[Array], Array], x: Array, start: Array, residual: Array) -> tuple[Array, Array]:
    """The changes of ``x`` and of the output: from linearisation to linearisation, each row as far as it comes nearer.

    Where all residuals are small there is one linearisation.
    """
    rows = rows_of(function, x)
    small = _row_is_small(rows, residual)
    all_small, parts = jnp.all(small), jnp.asarray(PARTS, x.dtype)

    at = functools.partial(_point_at, function, rows, x, start, residual)

    def step(_: Array, point: _Point) -> _Point:
        change = point[0]
        along = jax.jvp(function, (x + change,), (change,))[1]
        beyond = jnp.where(rows.like_z(small, residual), residual, along - point[1])
        target, multiplier = _linearised(function, rows, x + jnp.where(rows.like_x(small, x), 0, change), beyond)

        def nearer(k: Array, point: _Point) -> _Point:
            new = at(change + parts[k] * (target - change))
            return _where(rows, new[2] < point[2], new, point)

        point = lax.fori_loop(0, jnp.where(all_small, 0, len(PARTS)), nearer, point)
        return _where(rows, small, (target, -multiplier, point[2]), point)

    output_change = (start - start) - residual  # not a number where the output is none
    first = jnp.zeros_like(x), output_change, rows.sum_z(output_change**2)
    change, output_change, _ = lax.fori_loop(0, jnp.where(all_small, 1, OUTER_STEPS), step, first)
    return change, output_change


def _point_at(
    function: Callable[[Array], Array], rows: Rows, x: Array, start: Array, residual: Array, change: Array
) -> _Point:
    """The point that a change of ``x`` leads to."""
    output_change = function(x + change) - start - residual
    return change, output_change, rows.sum_x(change**2) + rows.sum_z(output_change**2)


def _where(rows: Rows, condition: Array, new: _Point, old: _Point) -> _Point:
    """The rows of new points where the condition holds, of the old ones elsewhere."""
    conditions = rows.like_x(condition, new[0]), rows.like_z(condition, new[1]), condition
    change, output_change, squared = (jnp.where(*each) for each in zip(conditions, new, old, strict=True))
    return change, output_change, squared


def _linearised(function: Callable[[Array], Array], rows: Rows, x: Array, residual: Array) -> tuple[Array, Array]:
    """``J' L`` and ``L``, where ``(I + J J') L`` is the residual, for the derivative J at ``x``."""
    _, forwards = jax.linearize(function, x)
    backwards = jax.linear_transpose(forwards, x)
    tiny = jnp.finfo(residual.dtype).tiny
    size = rows.like_z(rows.largest_z(residual), residual)  # in units of which squares do not vanish
    scale = jnp.where(size > 0, size, 1)
    residual = residual / scale

    def operator(multiplier: Array) -> Array:
        return multiplier + forwards(backwards(multiplier)[0])

    def quotient(numerator: Array, denominator: Array) -> Array:
        return rows.like_z(numerator / jnp.where(jnp.abs(denominator) > tiny, denominator, 1), residual)

    multiplier, rest = jnp.zeros_like(residual), residual
    direction, squared = rest, rows.sum_z(rest * rest)
    for _ in range(INNER_STEPS):
        image = operator(direction)
        step = quotient(squared, rows.sum_z(direction * image))
        multiplier, rest = multiplier + step * direction, rest - step * image
        new = rows.sum_z(rest * rest)
        direction, squared = rest + quotient(new, squared) * direction, new
    return backwards(scale * multiplier)[0], scale * multiplier
