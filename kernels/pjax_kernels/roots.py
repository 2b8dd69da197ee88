"""The roots of many dot products at once: by the short way if all are near, which is nearly always so."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias, TypeVar

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.export import is_symbolic_dim

from pjax_kernels import root
from pjax_kernels.meshes import shards

BLOCK = 1 << 12
"""Dot products at least worth solving at a time, where large layers with far roots are solved in parts."""

SMALL = 1 << 14
"""Dot products that can afford three steps for all of them."""

_BEYOND, _FAR = 1.0, 2.0
"""Marks in the place of roots: more steps are needed, or no number of steps is enough.  Near roots are below 1."""

Result = TypeVar("Result")

Equations: TypeAlias = tuple[Array, Array, Array, Array | None]
"""``p``, ``q``, ``z`` of all equations for a root, in shapes that broadcast to that of ``z``; ``z - p`` if known."""


def near_first(
    equations: Equations,
    again: Callable[[], Equations],
    near: Callable[[Array], Result],
    anyway: Callable[[Result], Result],
) -> Result:
    """What follows from the roots: ``near(-t)`` where :func:`root.near_root` gives every one, else ``anyway`` of that.

    Args:
        equations: of all dot products.
        again: gives the same once more, where the first try has failed.
        near: what follows from roots that are all near.  The change of ``z`` is ``-t``: to negate the last step, and
            not its result, saves a pass over memory.
        anyway: the same, whatever the roots; it is given the result of ``near``, whose memory it may use.
    """
    z = equations[2]
    one_step, _, three_steps = root.near_limits(z.dtype)

    def minus_roots(equations: Equations, steps: int, limit: float) -> Array:
        p, q, z, residual = equations
        scaled = root.quick_scaled_residual(p, q, z, residual)
        marks = jnp.where(jnp.abs(scaled) > three_steps, _FAR, _BEYOND).astype(scaled.dtype)
        return jnp.where(jnp.abs(scaled) > limit, marks, -root.near_root(scaled, p, q, steps=steps))

    # A small layer can afford three steps, and needs them more often: few outputs make large residuals.
    small = not is_symbolic_dim(z.size) and z.size <= SMALL
    minus_t = minus_roots(equations, *((3, three_steps) if small else (1, one_step)))
    # The largest mark says what is to be done: the largest residual would, but they would all have to be held for it.
    mark = jnp.max(jnp.abs(minus_t), initial=0)
    if not small:
        minus_t = replaced_if(mark == _BEYOND, lambda _: minus_roots(again(), 3, three_steps), minus_t)
    # Not a number, it may hide far ones in other rows.
    return replaced_if(~(mark <= _BEYOND), anyway, near(minus_t))


def replaced_if(condition: Array, replace: Callable[[Result], Result], result: Result) -> Result:
    """``result``, or what ``replace`` makes of it where the condition holds: a loop that runs once, or not at all."""

    def body(carry: tuple[Array, Result]) -> tuple[Array, Result]:
        return jnp.zeros_like(condition), replace(carry[1])

    # A loop that ends at once costs less than a branch: it leaves the common case in the main program.  It also keeps
    # apart what comes before and after: else all that uses a root would be compiled to compute part of it anew.
    return lax.while_loop(lambda carry: carry[0], body, (condition, result))[1]


@jax.jit  # outside jit, a branch would be compiled anew at every call
def near_or_any(p: Array, q: Array, z: Array, residual: Array | None = None) -> root.BilinearRoot:
    """The roots, for arrays of one shape; ``residual`` is ``z - p`` if known."""
    scaled = root.scaled_residual(p, q, z, residual)

    def near(p: Array, q: Array, *_: Array | None) -> root.BilinearRoot:
        return root.near_coefficients(root.near_root(scaled, p, q))

    return lax.cond(jnp.max(jnp.abs(scaled), initial=0) <= root.NEAR, near, any_roots, p, q, z, residual)


def any_roots(p: Array, q: Array, z: Array, residual: Array | None = None) -> root.BilinearRoot:
    """The roots whatever they are; ``p`` and ``q`` of shapes that broadcast to that of ``z``, ``z - p`` if known."""
    scaled = root.scaled_residual(p, q, z, residual)
    near = root.near_coefficients(root.near_root(scaled, p, q, steps=3))
    far = far_roots(root.squares, (p, q), z)
    is_near = jnp.abs(scaled) <= root.near_limits(z.dtype)[-1]
    return root.BilinearRoot(*(jnp.where(is_near, n, f) for n, f in zip(near, far, strict=True)))


def far_roots(
    squares: Callable[..., tuple[root.Square, root.Square]], operands: tuple[Array, ...], z: Array
) -> root.BilinearRoot:
    """The roots for the ``squares`` of operands whose shapes broadcast to that of ``z``, all taken to be far.

    A loop whose body is one expression: what takes time to compile is not how long it is, but how many kernels the
    compiler makes of it.  Far roots are rare, and short programs matter more than their speed.
    """

    def iterate(_: Array, v: Array) -> Array:
        # Else the compiler would take out of the loop, and store, all that is the same each time: as many kernels.
        *inner, z_inner, v = lax.optimization_barrier((*operands, z, v))
        return root.far_iteration(v, *squares(*inner), z_inner)

    start = jnp.full_like(sum((*operands, z)), -1)
    v = lax.fori_loop(0, 1 + root.FAR_STEPS, iterate, start)
    return root.far_coefficients(v, *squares(*operands), z)


def rows_at_a_time(shape: tuple[int, ...], entries: int = 4 * BLOCK) -> int:
    """How many rows of dot products to take at a time of each part of the batch: at most so many entries.

    A divisor of the number of rows in the parts, into which devices may have split the batch.
    """
    if is_symbolic_dim(shape[0]):
        return 1
    limit, part = max(1, entries // max(1, math.prod(shape[1:]))), shape[0] // shards(shape[0])
    return next((rows for rows in range(min(limit, part), 0, -1) if part % rows == 0), 1)
