"""Smooth functions of one array, each of whose outputs may depend on many of its entries, such as softmax."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from pjax_core.operations.primitive import Primitive
from pjax_core.operations.rows import Rows, rows_of
from pjax_kernels.compose import replaced_if

INNER_STEPS = 4
"""Steps of conjugate gradients for the multipliers of one linearisation."""

OUTER_STEPS = 8
"""Linearisations, where a residual is so large that one is not enough."""


def smooth_function(name: str, forward: Callable[..., Array]) -> Primitive:
    """The operation ``z = forward(x, *data)``, projected onto by linearisation, row by row.

    A small residual is projected to first order.  For a larger one the point found is never farther than ``x`` with its
    own output, and is the nearest where the function is not bent much between them.
    """

    def project(inputs: tuple[Array, ...], output: Array, residual: Array | None) -> tuple[tuple[Array], Array]:
        function, x = _of_first(forward, inputs)
        start = function(x)
        residual = output - start if residual is None else residual.astype(x.dtype)
        rows = rows_of(function, x)
        change, multiplier = _linearised(function, rows, x, residual, jnp.zeros_like(residual))
        small = _row_is_small(rows, residual)

        def search(first: _Point) -> _Point:
            found = _nearest(function, rows, x, start, residual, first)
            as_before = [spread(small, old) for spread, old in zip((rows.like_x, rows.like_z), first, strict=True)]
            return _Point(*(jnp.where(*each) for each in zip(as_before, first, found, strict=True)))

        found = replaced_if(~jnp.all(small), search, _Point(change, -multiplier))
        return (found.change,), found.output_change

    def increment(starts: tuple[Array, ...], changes: tuple[Array | None, ...]) -> Array:
        function, x = _of_first(forward, starts)
        change = jnp.asarray(changes[0]).astype(x.dtype)
        start, first_order = jax.jvp(function, (x,), (change,))
        rows = rows_of(function, x)
        return jnp.where(
            rows.like_z(_row_is_small(rows, first_order), start), first_order, function(x + change) - start
        )

    def shares(*inputs: Array) -> tuple[Array, ...]:
        """By the mean square of what the function makes of a change of all entries, with signs that have no pattern."""
        function, x = _of_first(forward, inputs)
        places: Array = jnp.zeros(x.shape, x.dtype)
        for axis in range(x.ndim):
            places = places + (axis + 1.6) * lax.broadcasted_iota(x.dtype, x.shape, axis)
        signs = jnp.where(jnp.sin(12.9898 * places + 1) < 0, -1, 1).astype(x.dtype)
        _, moved = jax.jvp(function, (x,), (signs,))
        return (1 / (1 + jnp.mean(moved**2)),) * len(inputs)

    return Primitive(name, forward, project, increment=increment, shares=shares, moving=1)


class _Point(NamedTuple):
    """A point of the graph of a function, by its changes."""

    change: Array
    output_change: Array


def _of_first(forward: Callable[..., Array], inputs: tuple[Array, ...]) -> tuple[Callable[[Array], Array], Array]:
    """The function of the first input, and that input, in float32 or wider."""
    x, *data = map(_widened, inputs)
    return lambda x: forward(x, *data), x


def _widened(array: Array) -> Array:
    if not jnp.issubdtype(array.dtype, jnp.floating):
        return array
    return array.astype(jnp.promote_types(array.dtype, jnp.float32))


def _row_is_small(rows: Rows, residual: Array) -> Array:
    """Whether what is beyond first order is lost in rounding."""
    return rows.largest_z(residual) <= jnp.finfo(residual.dtype).eps ** 0.5


def _nearest(
    function: Callable[[Array], Array], rows: Rows, x: Array, start: Array, residual: Array, first: _Point
) -> _Point:
    """From linearisation to linearisation, each row as far as it comes nearer."""

    def at(change: Array) -> tuple[Array, Array]:
        """The change of the output there, and the squared distance of each row."""
        output_change = function(x + change) - start - residual
        return output_change, rows.sum_x(change**2) + rows.sum_z(output_change**2)

    def step(_: int, state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        change, output_change, squared = state
        along = jax.jvp(function, (x + change,), (change,))[1]
        target = _linearised(function, rows, x + change, along - output_change, -output_change)[0]
        for part in (1.0, 0.3, 0.05):
            new = state[0] + part * (target - state[0])
            new_output_change, new_squared = at(new)
            nearer = new_squared < squared
            change = jnp.where(rows.like_x(nearer, x), new, change)
            output_change = jnp.where(rows.like_z(nearer, start), new_output_change, output_change)
            squared = jnp.where(nearer, new_squared, squared)
        return change, output_change, squared

    nothing = jnp.zeros_like(x)
    change, output_change, _ = lax.fori_loop(0, OUTER_STEPS, step, (nothing, *at(nothing)))
    return _Point(change, output_change)


def _linearised(
    function: Callable[[Array], Array], rows: Rows, x: Array, residual: Array, guess: Array
) -> tuple[Array, Array]:
    """``J' L`` and ``L``, where ``(I + J J') L`` is the residual, for the derivative J at ``x``."""
    _, forwards = jax.linearize(function, x)
    backwards = jax.linear_transpose(forwards, x)
    tiny = jnp.finfo(residual.dtype).tiny
    size = rows.like_z(rows.largest_z(residual), residual)  # in units of which squares do not vanish
    scale = jnp.where(size > 0, size, 1)
    residual, guess = residual / scale, guess / scale

    def operator(multiplier: Array) -> Array:
        return multiplier + forwards(backwards(multiplier)[0])

    def quotient(numerator: Array, denominator: Array) -> Array:
        return rows.like_z(numerator / jnp.where(jnp.abs(denominator) > tiny, denominator, 1), residual)

    multiplier, rest = guess, residual - operator(guess)
    direction, squared = rest, rows.sum_z(rest * rest)
    for _ in range(INNER_STEPS):
        image = operator(direction)
        step = quotient(squared, rows.sum_z(direction * image))
        multiplier, rest = multiplier + step * direction, rest - step * image
        new = rows.sum_z(rest * rest)
        direction, squared = rest + quotient(new, squared) * direction, new
    return backwards(scale * multiplier)[0], scale * multiplier
