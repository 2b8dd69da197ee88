"""The roots of many dot products at once: by the short way if all are near, which is nearly always so."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, TypeVar

import jax.numpy as jnp
from jax import Array, lax
from jax.export import is_symbolic_dim

from pjax_kernels import root

SMALL = 1 << 14
"""Dot products that can afford three steps for all of them."""

Result = TypeVar("Result")

Equations: TypeAlias = tuple[Array, Array, Array, Array | None]
"""``p``, ``q``, ``z`` of all equations for a root, in shapes that broadcast to that of ``z``; ``z - p`` if known."""

FarEquations: TypeAlias = tuple[tuple[Any, ...], Callable[..., tuple[Array, Array, Array]]]
"""Operands, and the scaled residuals, ``P`` and ``M`` as an elementwise function of them."""


def minus_roots(
    equations: Equations,
    again: Callable[[], Equations],
    far: Callable[[], FarEquations],
    of_radius: Callable[[Array, Array], Result],
    without: Result,
) -> tuple[Array, Result]:
    """``-v``, the roots :func:`root.stretched` and negated, and what follows from the radii of set-valued projections.

    To negate the last step, and not what follows from it, saves a pass over memory: the change of ``z`` is ``-t``.

    Args:
        equations: of all dot products.
        again: gives the same once more, where one step is not enough for a root.
        far: what :func:`root.stretched_iteration` needs of them, where some roots are far.
        of_radius: what is wanted of ``-v`` and the radii.
        without: the same where all radii are zero.
    """
    z = equations[2]
    one_step, _, three_steps = root.near_limits(z.dtype)

    def try_steps(equations: Equations, steps: int, limit: float) -> Array:
        p, q, z, residual = equations
        scaled = root.quick_scaled_residual(p, q, z, residual)
        unfinished = jnp.where(jnp.abs(scaled) > three_steps, jnp.inf, scaled)
        near = root.stretched(root.near_root(scaled, p, q, steps=steps))
        return -jnp.where(jnp.abs(scaled) > limit, unfinished, near)

    # A small layer can afford three steps, and needs them more often: few outputs make large residuals.
    small = not is_symbolic_dim(z.size) and z.size <= SMALL
    limit = three_steps if small else one_step
    minus_v = try_steps(equations, 3 if small else 1, limit)
    # The largest says what is to be done: the largest residual would, but they would all have to be held for it.
    if small:  # from both ends: compilers would compute all anew for the sizes
        largest = jnp.maximum(jnp.max(minus_v, initial=0), -jnp.min(minus_v, initial=0))
    else:  # in one pass
        largest = jnp.max(jnp.abs(minus_v), initial=0)

    def finish(found: tuple[Array, Result]) -> tuple[Array, Result]:
        operands, of_operands = far()

        def iterate(_: Array, minus_v: Array) -> Array:
            # Else the compiler would take out of the loop, and store, all that is the same each time: kernel by kernel.
            inner, minus_v = lax.optimization_barrier((operands, minus_v))
            # Half the limit: rounded anew, the scaled residual may be on the other side of it.
            return root.stretched_iteration(minus_v, *of_operands(*inner), found=limit / 2)

        minus_v = lax.fori_loop(0, 1 + root.FAR_STEPS, iterate, found[0])
        return minus_v, of_radius(minus_v, root.stretched_radius(minus_v, *of_operands(*operands)))

    if not small:
        beyond = (largest > limit) & (largest < jnp.inf)
        minus_v = replaced_if(beyond, lambda _: try_steps(again(), 3, three_steps), minus_v)
    # What is not a number may hide far ones in other rows.
    return replaced_if(~(largest < jnp.inf), finish, (minus_v, without))


def scaled_equations(
    p: Array, q_terms: Sequence[Array], z: Array, residual: Array | None = None
) -> tuple[Array, Array, Array]:
    """The scaled residuals, ``P`` and ``M``, from terms that add up to ``q``."""
    q = functools.reduce(operator.add, q_terms)
    plus, minus = root.squares(p, q)
    return root.quick_scaled_residual(p, q, z, residual), plus.value, minus.value


def replaced_if(condition: Array, replace: Callable[[Result], Result], result: Result) -> Result:
    """``result``, or what ``replace`` makes of it where the condition holds: a loop that runs once, or not at all."""

    def body(carry: tuple[Array, Result]) -> tuple[Array, Result]:
        return jnp.zeros_like(condition), replace(carry[1])

    # A loop that ends at once costs less than a branch: it leaves the common case in the main program.  It also keeps
    # apart what comes before and after: else all that uses a root would be compiled to compute part of it anew.
    return lax.while_loop(lambda carry: carry[0], body, (condition, result))[1]


def always(array: Array) -> Array:
    """True, which compilers do not know: for :func:`replaced_if`, to keep apart or in order what they would not."""
    total = jnp.sum(array)
    return (total == total) | (total != total)


def computed_once(array: Array) -> Array:
    """The array, for what follows from differences of its entries, however small.

    Else compilers may compute an entry anew for each use, as a product that is added before it is rounded, say: the
    largest one is above or below itself then.
    """
    once = lax.optimization_barrier(jnp.ones((), bool))
    return replaced_if(once, lambda _: array, jnp.zeros_like(array))


def bilinear_roots(p: Array, q: Array, z: Array, residual: Array | None = None) -> root.BilinearRoot:
    """The roots, for arrays of one shape; ``residual`` is ``z - p`` if known."""
    operands = p, (q,), z, residual
    minus_v, radius = minus_roots(
        (p, q, z, residual),
        lambda: (p, q, z, residual),
        lambda: (operands, scaled_equations),
        lambda _, radius: radius,
        jnp.zeros_like(z),
    )
    return root.BilinearRoot(*root.stretched_coefficients(-minus_v), radius)
