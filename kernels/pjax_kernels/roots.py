"""The roots of many dot products at once: by the short way if all are near, which is nearly always so."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax import Array, lax

from pjax_kernels import root

BLOCK = 1 << 12
"""Roots that are computed at a time where some are not near: the arithmetic has many intermediates."""

SMALL = 1 << 14
"""Dot products that can afford three steps for all of them."""

Result = TypeVar("Result")


def near_first(scaled: Array, near: Callable[[int], Result], anyway: Callable[[], Result]) -> Result:
    """``near(steps)`` where that many steps of :func:`root.near_root` give every root, else ``anyway()``.

    Args:
        scaled: the scaled residuals of all dot products.
        near: what follows from near roots, given the number of steps.
        anyway: the same, whatever the roots.
    """
    one_step, _, three_steps = root.near_limits(scaled.dtype)
    farthest = jnp.max(jnp.abs(scaled), initial=0)
    # A small layer can afford three steps, and needs them more often: few outputs make large residuals.
    small = scaled.size <= SMALL
    steps, limit = (3, three_steps) if small else (1, one_step)

    def again(_: tuple[Array, Result]) -> tuple[Array, Result]:
        found = anyway() if small else lax.cond(farthest <= three_steps, lambda: near(3), anyway)
        return jnp.zeros_like(farthest, bool), found

    # A loop that ends at once costs less than a branch: it leaves the common case in the main program.
    return lax.while_loop(lambda carry: carry[0], again, (farthest > limit, near(steps)))[1]


@jax.jit  # outside jit, a branch would be compiled anew at every call
def near_or_in_blocks(p: Array, q: Array, z: Array) -> root.BilinearRoot:
    """The roots, for arrays of one shape."""
    scaled = root.scaled_residual(p, q, z)

    def near(p: Array, q: Array, z: Array) -> root.BilinearRoot:
        del z
        return root.near_coefficients(root.near_root(scaled, p, q))

    return lax.cond(jnp.max(jnp.abs(scaled), initial=0) <= root.NEAR, near, in_blocks, p, q, z)


def in_blocks(p: Array, q: Array, z: Array) -> root.BilinearRoot:
    """The roots whatever they are, for arrays of one shape, a block at a time."""
    flat = tuple(array.ravel() for array in (p, q, z))
    found = lax.map(lambda block: _any_root(*block), flat, batch_size=BLOCK)
    return root.BilinearRoot(*(array.reshape(z.shape) for array in found))


_any_root = jax.jit(root.bilinear_root)
"""Traced once for all blocks of a program, which layers have in common."""
