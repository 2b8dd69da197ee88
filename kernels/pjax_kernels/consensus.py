"""Projection of the dot products of a bilinear map in consensus form: means of the copies, none of them stored."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from pjax_kernels import root, roots
from pjax_kernels.dot_products import DotProducts, Tree


class Coefficients(NamedTuple):
    """What the increments need of the roots of all dot products."""

    minus_t: Array
    minus_beta: Array
    gamma_x: Tree  # sums over the dot products that hold an entry of x
    gamma_w: Tree
    free_x: Tree  # what the radii of set-valued dot products add up to
    free_w: Tree


def consensus_increments(
    dots: DotProducts, x: Tree, w: Tree, z: Array, residual: Array | None = None
) -> tuple[Tree, Tree, Array]:
    """The mean changes of ``x`` and ``w``, and the change of ``z``.

    ``residual`` is ``z`` less the products where that is known better than by subtraction: no product is formed then.
    """
    found = _coefficients(dots, x, w, z, residual)
    from_w, from_x = dots.to_x(found.minus_beta, w), dots.to_w(found.minus_beta, x)
    x_change = jax.tree.map(mean_change, x, found.gamma_x, found.free_x, from_w, dots.x_copies)
    w_change = jax.tree.map(mean_change, w, found.gamma_w, found.free_w, from_x, dots.w_copies)
    return x_change, w_change, found.minus_t


def mean_change(array: Array, gamma: Array, free: Array, minus_other: Array, copies: ArrayLike) -> Array:
    """The mean change of an operand, from the sums over the dot products that hold each of its entries."""
    share = 1 / jnp.maximum(jnp.asarray(copies, minus_other.dtype), 1)  # the sums over no copies are zero
    return (gamma * share) * array + free * share - minus_other * share


def _coefficients(dots: DotProducts, x: Tree, w: Tree, z: Array, residual: Array | None) -> Coefficients:
    """What the increments need of the roots."""
    p = _products(dots, x, w, z, residual)
    squared = dots.of_x(squares(x)), dots.of_w(squares(w))

    def products() -> Array:
        return p if dots.hold_products and residual is None else _products(dots, x, w, z, residual)

    def sums(to_x: Array, to_w: Array) -> tuple[Tree, Tree]:
        return dots.spread_x(to_x), dots.spread_w(to_w)

    return coefficients_of_products(p, products, squared, z, residual, length=dots.length, sums=sums)


def coefficients_of_products(
    p: Array,
    products: Callable[[], Array],
    squared: tuple[Array, Array],
    z: Array,
    residual: Array | None,
    *,
    length: ArrayLike,
    sums: Callable[[Array, Array], tuple[Tree, Tree]],
) -> Coefficients:
    """What the increments need of the roots, from the dot products ``p`` and the squared norms of both sides.

    ``products`` forms ``p`` once more; ``sums`` adds up, for every entry of ``x`` and ``w``, what the dot products that
    hold it send there.
    """
    length = jnp.asarray(length, z.dtype)

    def free(minus_v: Array, radius: Array) -> tuple[Tree, Tree]:
        radius = radius * (1 / jnp.sqrt(jnp.maximum(length, 1)))
        return sums(radius, -jnp.sign(minus_v) * radius)

    def far() -> roots.FarEquations:
        return (products(), squared, z, residual), roots.scaled_equations

    def equations(p: Array) -> roots.Equations:
        return p, squared[0] + squared[1], z, residual

    none = jax.tree.map(jnp.zeros_like, sums(z, z))
    minus_v, (free_x, free_w) = roots.minus_roots(equations(p), lambda: equations(products()), far, free, none)
    minus_t, minus_beta, gamma = root.stretched_coefficients(minus_v)
    minus_t = jnp.where(length == 0, -z, minus_t)  # the only point of a set of no entries has z = 0
    return Coefficients(minus_t, minus_beta, *sums(gamma, gamma), free_x, free_w)


def _products(dots: DotProducts, x: Tree, w: Tree, z: Array, residual: Array | None) -> Array:
    """The dot products, from what ``z`` has beyond them if that is known."""
    return dots.product(x, w) if residual is None else z - residual


def squares(tree: Tree) -> Tree:
    """Every entry squared."""
    return jax.tree.map(lambda array: array * array, tree)
