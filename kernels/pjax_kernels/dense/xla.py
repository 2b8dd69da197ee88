"""Projection of a dense layer in consensus form, in jax.numpy: any platform."""

from __future__ import annotations

import functools

import jax.numpy as jnp
from jax import Array, lax

from pjax_kernels.consensus import consensus_increments
from pjax_kernels.dot_products import DotProducts


def dense_increments(x: Array, w: Array, z: Array, *, precision: lax.PrecisionLike) -> tuple[Array, Array, Array]:
    """The mean changes of ``x`` (B, N) and ``w`` (N, M), and the change of ``z`` (B, M)."""
    return consensus_increments(dot_products(x, w, precision=precision), x, w, z)


def dot_products(x: Array, w: Array, *, precision: lax.PrecisionLike) -> DotProducts:
    """Those of a matrix product."""
    matmul = functools.partial(jnp.matmul, precision=precision)
    return DotProducts(
        product=matmul,
        of_x=lambda x: jnp.sum(x, axis=1)[:, None],
        of_w=lambda w: jnp.sum(w, axis=0)[None, :],
        to_x=lambda c, w: matmul(c, w.T),
        to_w=lambda c, x: matmul(x.T, c),
        spread_x=lambda c: jnp.sum(c, axis=1)[:, None],
        spread_w=lambda c: jnp.sum(c, axis=0)[None, :],
        length=x.shape[1],
        x_copies=w.shape[1],
        w_copies=x.shape[0],
    )
