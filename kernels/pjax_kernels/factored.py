"""Projection of the dot products of a bilinear map whose copies are combinations of a few shared operands."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from pjax_kernels import root, roots
from pjax_kernels.combination import (
    Coefficient,
    Combination,
    Copies,
    FactoredChanges,
    mixed,
    plus,
    times,
    with_first_operands,
)
from pjax_kernels.derivatives import known_root
from pjax_kernels.dot_products import DotProducts, Tree


def factored_increments(dots: DotProducts, copies: Copies, z: Array, residual: Array | None = None) -> FactoredChanges:
    """The changes of the coefficients, the mean changes of the copies, and the change of ``z``."""
    return _increments(roots.bilinear_roots, dots, copies, z, residual)


def factored_formula(z_change: Array, dots: DotProducts, copies: Copies, z: Array) -> FactoredChanges:
    """The same from roots that are known, and differentiable."""
    return _increments(functools.partial(known_root, z_change), dots, copies, z)


def _increments(
    root_of: Callable[..., root.BilinearRoot],
    dots: DotProducts,
    copies: Copies,
    z: Array,
    residual: Array | None = None,
) -> FactoredChanges:
    """The same with the root that ``root_of`` finds for ``p``, ``q``, ``z`` and, where it is known, ``z - p``."""
    x, w, u, v = copies
    products = _Products(
        x=[[dots.of_x(_times(a, b)) for b in x] for a in x],
        w=[[dots.of_w(_times(a, b)) for b in w] for a in w],
        # That of the first is known by the residual.
        xw=[
            [dots.product(a, b) if i or j or residual is None else z - residual for j, b in enumerate(w)]
            for i, a in enumerate(x)
        ],
    )
    if residual is None:
        p = _full(products.inner(u, v), z)
    else:
        residual = residual - products.growth(u, v)
        p, (u, v) = z - residual, with_first_operands(u, v)
    q = _full(plus((products.inner(u, u), products.inner(v, v))), z)
    t, beta, gamma, radius = root_of(p, q, z, *(() if residual is None else (residual,)))
    # The only point of a set of no entries has z = 0.
    has_entries = jnp.asarray(dots.length, z.dtype) > 0
    t, radius = jnp.where(has_entries, t, z), jnp.where(has_entries, radius, 0)
    squared_free = jnp.sum((1 + t * t) * (radius * radius))

    u_change, v_change = mixed(gamma, u, beta, v), mixed(gamma, v, beta, u)
    x_sum = _sum(
        [_times(dots.spread_x(_full(c, z)), a) for c, a in zip(u_change.x, x, strict=True)]
        + [dots.to_x(_full(c, z), b) for c, b in zip(u_change.w, w, strict=True)]
    )
    w_sum = _sum(
        [dots.to_w(_full(c, z), a) for c, a in zip(v_change.x, x, strict=True)]
        + [_times(dots.spread_w(_full(c, z)), b) for c, b in zip(v_change.w, w, strict=True)]
    )

    def mean(total: Array, copies: ArrayLike) -> Array:
        return total * (1 / jnp.maximum(jnp.asarray(copies, z.dtype), 1))  # the sum over no copies is zero

    return FactoredChanges(
        u_change,
        v_change,
        x_mean=jax.tree.map(mean, x_sum, dots.x_copies),
        w_mean=jax.tree.map(mean, w_sum, dots.w_copies),
        z_change=-t,
        squared_change=jnp.sum(_squared_changes(p, q, beta, gamma)) + squared_free,
        squared_free=squared_free,
    )


def _times(a: Tree, b: Tree) -> Tree:
    return jax.tree.map(jnp.multiply, a, b)


def _sum(trees: Iterable[Tree]) -> Tree:
    return functools.reduce(functools.partial(jax.tree.map, jnp.add), trees)


def _squared_changes(p: Array, q: Array, beta: Array, gamma: Array) -> Array:
    """``|gamma u + beta v|^2 + |gamma v + beta u|^2``."""
    # By way of u + v and u - v nothing cancels; by its factors one at a time, no square of a coefficient overflows.
    half_sum, half_difference = root.squares(p, q)
    of_sum, of_difference = gamma + beta, gamma - beta
    return 2 * (of_sum * (of_sum * half_sum.value) + of_difference * (of_difference * half_difference.value))


class _Products(NamedTuple):
    """Inner products of the operands, each of a shape that broadcasts to that of ``z``."""

    x: list[list[Array]]
    w: list[list[Array]]
    xw: list[list[Array]]

    def inner(self, f: Combination, g: Combination) -> Coefficient:
        """The inner products of two combinations."""
        terms = [times(a, b, self.x[i][j]) for i, a in enumerate(f.x) for j, b in enumerate(g.x)]
        terms += [times(a, b, self.w[i][j]) for i, a in enumerate(f.w) for j, b in enumerate(g.w)]
        terms += [times(a, b, self.xw[i][j]) for i, a in enumerate(f.x) for j, b in enumerate(g.w)]
        terms += [times(a, b, self.xw[j][i]) for i, a in enumerate(f.w) for j, b in enumerate(g.x)]
        return plus(terms)

    def growth(self, u: Combination, v: Combination) -> Coefficient:
        """By how much ``x[0] . w[0]`` grows when these are added to the operands."""
        first_x, with_w = with_first_operands(jax.tree.map(lambda _: 0.0, u), v)
        return plus((self.inner(first_x, v), self.inner(u, with_w)))


def _full(coefficient: Coefficient, like: Array) -> Array:
    """An array even where the coefficient is one number."""
    return jnp.broadcast_to(jnp.asarray(coefficient, like.dtype), like.shape)
