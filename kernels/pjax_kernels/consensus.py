"""Projection of the dot products of a bilinear map in consensus form: means of the copies, none of them stored."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from pjax_kernels import root, roots
from pjax_kernels.dot_products import DotProducts, Tree
from pjax_kernels.meshes import in_shards, shards


class Coefficients(NamedTuple):
    """What the increments need of the roots of all dot products."""

    minus_t: Array
    minus_beta: Array
    gamma_x: Tree  # sums over the dot products that hold an entry of x
    gamma_w: Tree
    free_x: Tree  # what the radii of set-valued dot products add up to
    free_w: Tree


def consensus_increments(
    dots: DotProducts,
    x: Tree,
    w: Tree,
    z: Array,
    residual: Array | None = None,
    *,
    rows: int | None = None,
    hold: bool = False,
) -> tuple[Tree, Tree, Array]:
    """The mean changes of ``x`` and ``w``, and the change of ``z``; the rest as in :func:`coefficients`."""
    found = coefficients(dots, x, w, z, residual, rows=rows, hold=hold)
    from_w, from_x = dots.to_x(found.minus_beta, w), dots.to_w(found.minus_beta, x)
    x_change = jax.tree.map(mean_change, x, found.gamma_x, found.free_x, from_w, dots.x_copies)
    w_change = jax.tree.map(mean_change, w, found.gamma_w, found.free_w, from_x, dots.w_copies)
    return x_change, w_change, found.minus_t


def mean_change(array: Array, gamma: Array, free: Array, minus_other: Array, copies: ArrayLike) -> Array:
    """The mean change of an operand, from the sums over the dot products that hold each of its entries."""
    share = 1 / jnp.maximum(jnp.asarray(copies, minus_other.dtype), 1)  # the sums over no copies are zero
    return (gamma * share) * array + free * share - minus_other * share


def coefficients(
    dots: DotProducts,
    x: Tree,
    w: Tree,
    z: Array,
    residual: Array | None = None,
    *,
    rows: int | None = None,
    hold: bool = False,
    moves_x: bool = True,
) -> Coefficients:
    """What the increments need of the roots; without ``moves_x`` those of ``w`` and ``z`` alone.

    ``residual`` is ``z`` less the products where that is known better than by subtraction: no product is formed then.

    ``rows``: the first axis of ``x`` and of ``z`` is a batch, whose rows meet in no dot product.  Where roots are far,
    so many of them are then solved after the other: that holds less and takes longer, so it is for large ``z``.
    With ``rows`` and not ``hold``, products are formed anew where one step was not enough for a root.
    """
    p = _products(dots, x, w, z, residual)
    x_squared, w_squared = dots.of_x(squares(x)), dots.of_w(squares(w))

    def equations(p: Array) -> roots.Equations:
        return p, x_squared + w_squared, z, residual

    def again() -> roots.Equations:
        # Nothing of the size of z should be held until it turns out that it is needed again: its memory costs time.
        return equations(p if hold or rows is None else _products(dots, x, w, z, residual))

    def near(minus_t: Array) -> Coefficients:
        _, minus_beta, gamma, _ = root.near_coefficients(minus_t)
        gamma_x, gamma_w = dots.spread_x(gamma) if moves_x else None, dots.spread_w(gamma)
        free_x, free_w = (jax.tree.map(jnp.zeros_like, like) for like in (gamma_x, gamma_w))
        return Coefficients(minus_t, minus_beta, gamma_x, gamma_w, free_x, free_w)

    def anyway(found: Coefficients) -> Coefficients:
        if rows and z.size:
            return _rows_in_turn(dots, x, w, z, residual, x_squared, w_squared, found, rows)
        return _any_coefficients(dots, *again(), moves_x)

    return roots.near_first(equations(p), again, near, anyway)


def _products(dots: DotProducts, x: Tree, w: Tree, z: Array, residual: Array | None) -> Array:
    """The dot products, from what ``z`` has beyond them if that is known."""
    return dots.product(x, w) if residual is None else z - residual


def _any_coefficients(
    dots: DotProducts, p: Array, q: Array, z: Array, residual: Array | None, moves_x: bool
) -> Coefficients:
    """What the increments need, whatever the roots."""
    t, beta, gamma, radius = roots.any_roots(p, q, z, residual)
    length = jnp.asarray(dots.length, z.dtype)
    t = jnp.where(length == 0, z, t)  # the only point of a set of no entries has z = 0
    free = radius * (1 / jnp.sqrt(jnp.maximum(length, 1)))
    gamma_x, free_x = (dots.spread_x(gamma), dots.spread_x(free)) if moves_x else (None, None)
    return Coefficients(-t, -beta, gamma_x, dots.spread_w(gamma), free_x, dots.spread_w(t * free))


def _rows_in_turn(
    dots: DotProducts,
    x: Tree,
    w: Tree,
    z: Array,
    residual: Array | None,
    x_squared: Tree,
    w_squared: Tree,
    into: Coefficients,
    rows: int,
) -> Coefficients:
    """The same for a few rows of a batch after the other: what is held meanwhile is of these.

    The program's memory is the most that any part of it takes, run or not, and asking for much of it costs time.
    """
    parts = shards(z.shape[0])

    def solve_rows(k: Array, found: Coefficients) -> Coefficients:
        def of_rows(tree: Tree) -> Tree:
            return jax.tree.map(take, tree)

        def take(array: Array) -> Array:
            part = lax.dynamic_slice_in_dim(in_shards(array, parts), k * rows, rows, 1)
            return part.reshape(parts * rows, *array.shape[1:])

        p, q = _products(dots, of_rows(x), w, of_rows(z), of_rows(residual)), of_rows(x_squared) + w_squared
        new = _any_coefficients(dots, p, q, of_rows(z), of_rows(residual), found.gamma_x is not None)

        def put(array: Array, part: Array) -> Array:
            part = in_shards(part, parts)
            return lax.dynamic_update_slice_in_dim(in_shards(array, parts), part, k * rows, 1).reshape(array.shape)

        return Coefficients(
            put(found.minus_t, new.minus_t),
            put(found.minus_beta, new.minus_beta),
            jax.tree.map(put, found.gamma_x, new.gamma_x),
            found.gamma_w + new.gamma_w,
            jax.tree.map(put, found.free_x, new.free_x),
            found.free_w + new.free_w,
        )

    start = into._replace(gamma_w=jnp.zeros_like(into.gamma_w), free_w=jnp.zeros_like(into.free_w))
    return lax.fori_loop(0, z.shape[0] // (parts * rows), solve_rows, start)


def squares(tree: Tree) -> Tree:
    """Every entry squared."""
    return jax.tree.map(lambda array: array * array, tree)
