"""Projection of a dense layer in consensus form, in jax.numpy: any platform."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax.numpy as jnp
from jax import Array, lax

from pjax_kernels.consensus import consensus_increments
from pjax_kernels.dot_products import DotProducts

NARROW = 16
"""Most columns of weights whose change is better computed transposed, on a CPU."""


def dense_increments(
    x: Array,
    w: Array,
    z: Array,
    *,
    precision: lax.PrecisionLike,
    transposed: bool = False,
    residual: Array | None = None,
) -> tuple[Array, Array, Array]:
    """The mean changes of ``x`` (B, N) and ``w`` (N, M), or ``w`` (M, N) transposed, and the change of ``z`` (B, M)."""
    dots = dot_products(x, w, precision=precision, transposed=transposed)
    return consensus_increments(dots, x, w, z, residual)


def dot_products(x: Array, w: Array, *, precision: lax.PrecisionLike, transposed: bool = False) -> DotProducts:
    """Those of a matrix product."""
    matmul = functools.partial(jnp.matmul, precision=precision)
    if transposed:
        return _of_transposed(x, w, matmul)

    def to_w(c: Array, x: Array) -> Array:
        return matmul(x.T, c)

    def to_narrow_w(c: Array, x: Array) -> Array:
        """The same, transposed: of few columns, XLA's CPU is 3 times faster at that."""
        # The barriers keep XLA from undoing it.
        return lax.optimization_barrier(matmul(lax.optimization_barrier(c.T), x)).T

    def to_w_on_any_platform(c: Array, x: Array) -> Array:
        return lax.platform_dependent(c, x, cpu=to_narrow_w, default=to_w)

    return DotProducts(
        product=matmul,
        of_x=lambda x: jnp.sum(x, axis=1)[:, None],
        of_w=lambda w: jnp.sum(w, axis=0)[None, :],
        to_x=lambda c, w: matmul(c, w.T),
        to_w=to_w_on_any_platform if w.shape[1] <= NARROW else to_w,
        spread_x=lambda c: jnp.sum(c, axis=1)[:, None],
        spread_w=lambda c: jnp.sum(c, axis=0)[None, :],
        length=x.shape[1],
        x_copies=w.shape[1],
        w_copies=x.shape[0],
    )


def _of_transposed(x: Array, w: Array, matmul: Callable[[Array, Array], Array]) -> DotProducts:
    """The same with weights (M, N), none of which is transposed."""
    return DotProducts(
        product=lambda x, w: matmul(x, w.T),
        of_x=lambda x: jnp.sum(x, axis=1)[:, None],
        of_w=lambda w: jnp.sum(w, axis=1)[None, :],
        to_x=matmul,
        to_w=lambda c, x: matmul(c.T, x),
        spread_x=lambda c: jnp.sum(c, axis=1)[:, None],
        spread_w=lambda c: jnp.sum(c, axis=0)[:, None],
        length=x.shape[1],
        x_copies=w.shape[0],
        w_copies=x.shape[0],
    )
