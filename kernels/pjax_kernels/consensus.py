"""Projection of the dot products of a bilinear map in consensus form: means of the copies, none of them stored."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from pjax_kernels import root, roots
from pjax_kernels.dot_products import DotProducts, Tree


class _Coefficients(NamedTuple):
    """What the increments need of the roots of all dot products."""

    minus_t: Array
    minus_beta: Array
    gamma_x: Tree  # sums over the dot products that hold an entry of x
    gamma_w: Tree
    free_x: Tree  # what the radii of set-valued dot products add up to
    free_w: Tree


def consensus_increments(dots: DotProducts, x: Tree, w: Tree, z: Array) -> tuple[Tree, Tree, Array]:
    """The mean changes of ``x`` and ``w``, and the change of ``z``."""
    p = dots.product(x, w)
    x_squared, w_squared = dots.of_x(squares(x)), dots.of_w(squares(w))

    def near(steps: int) -> _Coefficients:
        # The change of z is -t: to negate the last step, and not its result, saves a pass over memory.
        q = x_squared + w_squared
        minus_t = -root.near_root(root.scaled_residual(p, q, z), p, q, steps=steps)
        _, minus_beta, gamma, _ = root.near_coefficients(minus_t)
        gamma_x, gamma_w = dots.spread_x(gamma), dots.spread_w(gamma)
        free_x, free_w = (jax.tree.map(jnp.zeros_like, like) for like in (gamma_x, gamma_w))
        return _Coefficients(minus_t, minus_beta, gamma_x, gamma_w, free_x, free_w)

    def anyway() -> _Coefficients:
        t, beta, gamma, radius = roots.in_blocks(p, jnp.broadcast_to(x_squared + w_squared, z.shape), z)
        free = radius * (1 / jnp.sqrt(jnp.maximum(jnp.asarray(dots.length, z.dtype), 1)))
        return _Coefficients(
            -t, -beta, dots.spread_x(gamma), dots.spread_w(gamma), dots.spread_x(free), dots.spread_w(t * free)
        )

    # near() computes the scaled residuals again rather than holding them: then the loop need not carry them.
    found = roots.near_first(root.scaled_residual(p, x_squared + w_squared, z), near, anyway)

    def mean_change(array: Array, gamma: Array, free: Array, minus_other: Array, copies: ArrayLike) -> Array:
        share = 1 / jnp.maximum(jnp.asarray(copies, z.dtype), 1)  # the sums over no copies are zero
        return (gamma * share) * array + free * share - minus_other * share

    from_w, from_x = dots.to_x(found.minus_beta, w), dots.to_w(found.minus_beta, x)
    x_change = jax.tree.map(mean_change, x, found.gamma_x, found.free_x, from_w, dots.x_copies)
    w_change = jax.tree.map(mean_change, w, found.gamma_w, found.free_w, from_x, dots.w_copies)
    return x_change, w_change, found.minus_t


def squares(tree: Tree) -> Tree:
    """Every entry squared."""
    return jax.tree.map(lambda array: array * array, tree)
