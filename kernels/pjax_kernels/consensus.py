"""Projection of the dot products of a bilinear map in consensus form: means of the copies, none of them stored."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
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


def consensus_increments(
    dots: DotProducts, x: Tree, w: Tree, z: Array, *, batched: bool = False
) -> tuple[Tree, Tree, Array]:
    """The mean changes of ``x`` and ``w``, and the change of ``z``.

    ``batched``: the first axis of ``x`` and of ``z`` is a batch, whose rows meet in no dot product.  Where roots are
    far, a few rows are then solved after the other: that holds less and takes longer, so it is for large ``z``.
    """
    p = dots.product(x, w)
    x_squared, w_squared = dots.of_x(squares(x)), dots.of_w(squares(w))

    def equations(p: Array) -> roots.Equations:
        return p, x_squared + w_squared, z

    def again() -> roots.Equations:
        # Nothing of the size of z should be held until it turns out that it is needed again: its memory costs time.
        return equations(dots.product(x, w) if batched else p)

    def near(minus_t: Array) -> _Coefficients:
        _, minus_beta, gamma, _ = root.near_coefficients(minus_t)
        gamma_x, gamma_w = dots.spread_x(gamma), dots.spread_w(gamma)
        free_x, free_w = (jax.tree.map(jnp.zeros_like, like) for like in (gamma_x, gamma_w))
        return _Coefficients(minus_t, minus_beta, gamma_x, gamma_w, free_x, free_w)

    def anyway(found: _Coefficients) -> _Coefficients:
        p, q, z = again()
        if batched and z.size:
            return _rows_in_turn(dots, p, x_squared, w_squared, z, found)
        return _any_coefficients(dots, p, q, z)

    found = roots.near_first(equations(p), again, near, anyway)

    def mean_change(array: Array, gamma: Array, free: Array, minus_other: Array, copies: ArrayLike) -> Array:
        share = 1 / jnp.maximum(jnp.asarray(copies, z.dtype), 1)  # the sums over no copies are zero
        return (gamma * share) * array + free * share - minus_other * share

    from_w, from_x = dots.to_x(found.minus_beta, w), dots.to_w(found.minus_beta, x)
    x_change = jax.tree.map(mean_change, x, found.gamma_x, found.free_x, from_w, dots.x_copies)
    w_change = jax.tree.map(mean_change, w, found.gamma_w, found.free_w, from_x, dots.w_copies)
    return x_change, w_change, found.minus_t


def _any_coefficients(dots: DotProducts, p: Array, q: Array, z: Array) -> _Coefficients:
    """What the increments need, whatever the roots."""
    t, beta, gamma, radius = roots.in_blocks(p, jnp.broadcast_to(q, z.shape), z)
    free = radius * (1 / jnp.sqrt(jnp.maximum(jnp.asarray(dots.length, z.dtype), 1)))
    return _Coefficients(
        -t, -beta, dots.spread_x(gamma), dots.spread_w(gamma), dots.spread_x(free), dots.spread_w(t * free)
    )


def _rows_in_turn(
    dots: DotProducts, p: Array, x_squared: Tree, w_squared: Tree, z: Array, into: _Coefficients
) -> _Coefficients:
    """The same for a few rows of a batch after the other: what is held meanwhile is of these.

    The program's memory is the most that any part of it takes, run or not, and asking for much of it costs time.
    """
    rows = roots.rows_at_a_time(z.shape)

    def solve_rows(k: Array, found: _Coefficients) -> _Coefficients:
        p, of_x, z_part = (
            lax.dynamic_slice_in_dim(array, k * rows, rows) for array in (found.minus_beta, x_squared, z)
        )
        new = _any_coefficients(dots, p, of_x + w_squared, z_part)

        def put(array: Array, part: Array) -> Array:
            return lax.dynamic_update_slice_in_dim(array, part, k * rows, 0)

        return _Coefficients(
            put(found.minus_t, new.minus_t),
            put(found.minus_beta, new.minus_beta),
            put(found.gamma_x, new.gamma_x),
            found.gamma_w + new.gamma_w,
            put(found.free_x, new.free_x),
            found.free_w + new.free_w,
        )

    # -beta takes the place of p.
    start = into._replace(minus_beta=p, gamma_w=jnp.zeros_like(into.gamma_w), free_w=jnp.zeros_like(into.free_w))
    return lax.fori_loop(0, z.shape[0] // rows, solve_rows, start)


def squares(tree: Tree) -> Tree:
    """Every entry squared."""
    return jax.tree.map(lambda array: array * array, tree)
