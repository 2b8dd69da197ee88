"""Projection of a dense layer in factored form, in jax.numpy: any platform."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from pjax_kernels import root
from pjax_kernels.dense_factored.combination import Coefficient, Combination, DenseFactored, mixed, plus, times

_BLOCK = 1 << 14
"""Roots that :func:`_any` computes at a time."""


def factored_increments(
    x: Sequence[Array],
    w: Sequence[Array],
    u: Combination,
    v: Combination,
    z: Array,
    *,
    precision: lax.PrecisionLike,
) -> DenseFactored:
    """The changes of the coefficients, the mean changes of the copies, and the change of ``z``."""
    matmul = functools.partial(jnp.matmul, precision=precision)
    products = _Products(
        x=[[jnp.sum(a * b, axis=1)[:, None] for b in x] for a in x],
        w=[[jnp.sum(a * b, axis=0)[None, :] for b in w] for a in w],
        xw=[[matmul(a, b) for b in w] for a in x],
    )
    p, q = (_full(value, z) for value in (products.inner(u, v), plus((products.inner(u, u), products.inner(v, v)))))
    t, beta, gamma, radius = _roots(p, q, z)
    squared_free = jnp.sum((1 + t * t) * (radius * radius))

    u_change, v_change = mixed(gamma, u, beta, v), mixed(gamma, v, beta, u)
    x_sum = plus(
        [jnp.sum(_full(c, z), axis=1)[:, None] * a for c, a in zip(u_change.x, x, strict=True)]
        + [matmul(_full(c, z), b.T) for c, b in zip(u_change.w, w, strict=True)]
    )
    w_sum = plus(
        [matmul(a.T, _full(c, z)) for c, a in zip(v_change.x, x, strict=True)]
        + [jnp.sum(_full(c, z), axis=0) * b for c, b in zip(v_change.w, w, strict=True)]
    )
    batch, width = z.shape
    return DenseFactored(
        u_change,
        v_change,
        x_mean=_full(x_sum, x[0]) * (1 / max(width, 1)),
        w_mean=_full(w_sum, w[0]) * (1 / max(batch, 1)),
        z_change=-t,
        squared_change=jnp.sum(_squared_changes(p, q, beta, gamma)) + squared_free,
        squared_free=squared_free,
    )


def _squared_changes(p: Array, q: Array, beta: Array, gamma: Array) -> Array:
    """``|gamma u + beta v|^2 + |gamma v + beta u|^2``."""
    # By way of u + v and u - v nothing cancels; by its factors one at a time, no square of a coefficient overflows.
    half_sum, half_difference = root.squares(p, q)
    of_sum, of_difference = gamma + beta, gamma - beta
    return 2 * (of_sum * (of_sum * half_sum.value) + of_difference * (of_difference * half_difference.value))


class _Products(NamedTuple):
    """Inner products of the vectors, each ``(B, 1)``, ``(1, M)`` or ``(B, M)``."""

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


def _full(coefficient: Coefficient, like: Array) -> Array:
    """An array even where the coefficient is one number."""
    return jnp.broadcast_to(jnp.asarray(coefficient, like.dtype), like.shape)


@jax.jit  # outside jit, a branch would be compiled anew at every call
def _roots(p: Array, q: Array, z: Array) -> root.BilinearRoot:
    """The roots, by the short way if all are near."""
    scaled = root.scaled_residual(p, q, z)

    def near(p: Array, q: Array, z: Array) -> root.BilinearRoot:
        del z
        return root.near_coefficients(root.near_root(scaled, p, q))

    def in_blocks(p: Array, q: Array, z: Array) -> root.BilinearRoot:
        # The arithmetic has many intermediates.
        rows = max(1, _BLOCK // max(z.shape[1], 1))
        return lax.map(lambda row: root.bilinear_root(*row), (p, q, z), batch_size=rows)

    return lax.cond(jnp.max(jnp.abs(scaled), initial=0) <= root.NEAR, near, in_blocks, p, q, z)
