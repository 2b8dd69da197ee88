"""Projection of dense layers whose input is data, in consensus form, with weights only as the batch moves them.

Copies of the weights' columns are moved along the rows of data, along what the columns are, and, where a projection has
a choice, along ones.  So the mean of the copies changes by

    change  =  X^T e + 1 f + a W,         W as at the start,

with coefficients ``e`` (B, M), ``f`` and ``a`` (M,).  A projection needs of that only the products with ``X``, ``1``
and ``W``, and they follow from those of these with each other: the Gram matrix of the data, formed once for a batch.
While it stays, neither ``X`` nor ``W`` is touched, which is (N, M) where the batch may have far fewer rows than N.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from pjax_kernels.consensus import coefficients_of_products


class Span(NamedTuple):
    """Dot products of what weights move along: rows of data ``x`` (B, N), ones, and weights ``w`` (N, M) at the start.

    Attributes:
        of_rows: ``(B, B)``, of the rows of ``x``.
        with_ones: ``(B,)``, of these with ones.
        with_weights: ``(B, M)``, of these with the columns of ``w``.
        of_ones: ``(M,)``, of ones with these columns.
        squared: ``(M,)``, of these with themselves.
        length: ``()``, of ones with themselves.
    """

    of_rows: Array
    with_ones: Array
    with_weights: Array
    of_ones: Array
    squared: Array
    length: Array


def span_of(x: Array, w: Array) -> Span:
    """That of a batch (B, N) and weights (N, M), of one dtype, float32 or wider."""

    def product(a: Array, b: Array) -> Array:
        return jnp.matmul(a, b, precision=lax.Precision.HIGHEST)

    return Span(
        product(x, x.T),
        jnp.sum(x, axis=1),
        product(x, w),
        jnp.sum(w, axis=0),
        jnp.sum(w * w, axis=0),
        jnp.asarray(w.shape[0], w.dtype),
    )


def no_change_in_span(batch: int, columns: int, dtype: jnp.dtype) -> Array:
    """No change of weights: coefficients and products, (2, B + 2, M), of rows, ones, and the weights at the start."""
    return jnp.zeros((2, batch + 2, columns), dtype)


def growth_in_span(change: Array) -> Array:
    """By how much the products of the batch with the weights have grown, (B, M)."""
    return change[1, :-2]


def weights_in_span(x: Array, w: Array, change: Array) -> Array:
    """By how much weights have changed, like ``w`` (N, M), those at the start."""
    coefficients = change[0]
    along_rows = jnp.matmul(x.T, coefficients[:-2], precision=lax.Precision.HIGHEST)
    return along_rows + coefficients[-2] + coefficients[-1] * w


def norms_in_span(change: Array) -> Array:
    """The norm of each column's change, (M,), however small."""
    scales = jnp.max(jnp.abs(change), axis=(1, 2), initial=0)
    scales = jnp.where(scales > 0, scales, 1)
    scaled = change / scales[:, None, None]
    squared = jnp.sum(scaled[0] * scaled[1], axis=0)
    return jnp.sqrt(scales[0]) * jnp.sqrt(scales[1]) * jnp.sqrt(jnp.maximum(squared, 0))


def project_dense_in_span(span: Span, change: Array, z: Array, residual: Array) -> tuple[Array, Array]:
    """Project a dense layer whose weights have changed, as :func:`pjax_kernels.project_dense` does.

    Args:
        span: from :func:`span_of`.
        change: of the weights since then.
        z: the estimate of the output, (B, M).
        residual: ``z`` less the products of the batch with the weights as they are.

    Returns:
        The change of the weights since the start with the mean of their copies, and the change of ``z``.  That of the
        data is not computed.
    """
    coefficients, products = change
    share = 1 / z.shape[0]
    squared = span.squared + 2 * products[-1] + jnp.sum(coefficients * products, axis=0)
    p = z - residual
    found = coefficients_of_products(
        p,
        lambda: p,
        (jnp.diagonal(span.of_rows)[:, None], jnp.maximum(squared, 0)[None, :]),
        z,
        residual,
        length=span.length,
        sums=lambda _, to_w: (None, jnp.sum(to_w, axis=0, keepdims=True)),
    )
    along_weights = share * found.gamma_w
    new = coefficients + along_weights * coefficients
    of_rows = new[:-2] - share * found.minus_beta
    of_ones = new[-2:-1] + share * found.free_w
    of_weights = new[-1:] + along_weights
    return _with_products(span, of_rows, of_ones, of_weights), found.minus_t


def _with_products(span: Span, of_rows: Array, of_ones: Array, of_weights: Array) -> Array:
    """Coefficients, and the products of the change that they make with all that it is along."""
    gram = jnp.matmul(span.of_rows, of_rows, precision=lax.Precision.HIGHEST)
    with_rows = gram + span.with_ones[:, None] * of_ones + span.with_weights * of_weights
    with_ones = jnp.sum(span.with_ones[:, None] * of_rows, axis=0) + span.length * of_ones + span.of_ones * of_weights
    with_weights = jnp.sum(span.with_weights * of_rows, axis=0) + span.of_ones * of_ones + span.squared * of_weights
    parts = (of_rows, of_ones, of_weights), (with_rows, with_ones, with_weights)
    return jnp.stack([jnp.concatenate(part) for part in parts])
