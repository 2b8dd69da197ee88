"""Projection of dense layers whose input is data, in consensus form, with weights only as the batch moves them.

Copies of the weights' columns are moved along the rows of data, along what the columns are, and, where a projection has
a choice, along ones.  So the mean of the copies changes by

    change  =  X^T e + 1 f + a W,         W as at the start,

with coefficients ``e`` (B, M), ``f`` and ``a`` (M,).  A projection needs of that only the products with ``X``, ``1``
and ``W``, and they follow from those of these with each other: the Gram matrix of the data, formed once for a batch.
While it stays, neither ``X`` nor ``W`` is touched, which is (N, M) where the batch may have far fewer rows than N.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from pjax_kernels.consensus import coefficients_of_products
from pjax_kernels.derivatives import known_root


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


class ChangeInSpan(NamedTuple):
    """A change of weights: what it is made of, and its products with that.

    Attributes:
        of_rows: ``(B, M)``, how much of each row of the batch.
        of_ones: ``(M,)``, how much of ones.
        of_weights: ``(M,)``, how much of the weights at the start.
        with_rows: ``(B, M)``, the products with the rows: by how much those of the batch with the weights have grown.
        with_ones: ``(M,)``.
        with_weights: ``(M,)``.
    """

    of_rows: Array
    of_ones: Array
    of_weights: Array
    with_rows: Array
    with_ones: Array
    with_weights: Array

    def weights(self, x: Array, w: Array) -> Array:
        """The change as it is, like the weights ``w`` (N, M) at the start."""
        along_rows = jnp.matmul(x.T, self.of_rows, precision=lax.Precision.HIGHEST)
        return along_rows + self.of_ones + self.of_weights * w

    def norms(self) -> Array:
        """The norm of each column, (M,), however small."""
        (unit, coefficients), (unit_of_products, products) = _scaled(self[:3]), _scaled(self[3:])
        squared = _squared(coefficients, products)
        return jnp.sqrt(unit) * jnp.sqrt(unit_of_products) * jnp.sqrt(jnp.maximum(squared, 0))


def _squared(coefficients: Sequence[Array], products: Sequence[Array]) -> Array:
    """The squared norms of a change's columns, up to rounding, which may make them negative."""
    terms = (jnp.atleast_2d(a * b) for a, b in zip(coefficients, products, strict=True))
    return functools.reduce(operator.add, (jnp.sum(term, axis=0) for term in terms))


def _scaled(arrays: tuple[Array, ...]) -> tuple[Array, list[Array]]:
    """The largest size of a number, 1 if that is 0, and the arrays in units of it."""
    largest = functools.reduce(jnp.maximum, (jnp.max(jnp.abs(array), initial=0) for array in arrays))
    scale = jnp.where(largest > 0, largest, 1)
    return scale, [array / scale for array in arrays]


def no_change_in_span(span: Span) -> ChangeInSpan:
    """No change of weights."""
    large, small = jnp.zeros_like(span.with_weights), jnp.zeros_like(span.squared)
    return ChangeInSpan(large, small, small, large, small, small)


@jax.custom_jvp
def project_dense_in_span(span: Span, change: ChangeInSpan, z: Array, residual: Array) -> tuple[ChangeInSpan, Array]:
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
    squared = jnp.diagonal(span.of_rows)[:, None], _squared_weights(span, change)
    found = coefficients_of_products(
        z - residual,
        lambda: z - residual,
        squared,
        z,
        residual,
        length=span.length,
        sums=lambda _, to_w: (None, jnp.sum(to_w, axis=0)),
    )
    return _moved(span, change, found.minus_beta, found.gamma_w, found.free_w), found.minus_t


@project_dense_in_span.defjvp
def _(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Any, Any]:
    """By the implicit function theorem; the residual moves with the rest."""
    found = project_dense_in_span(*primals)

    def by_formula(span: Span, change: ChangeInSpan, z: Array) -> tuple[ChangeInSpan, Array]:
        products = span.with_weights + change.with_rows
        q = jnp.diagonal(span.of_rows)[:, None] + _squared_weights(span, change)
        t, beta, gamma, radius = known_root(found[1], products, q, z)
        free = jnp.sign(t) * radius / jnp.sqrt(jnp.maximum(span.length, 1))
        return _moved(span, change, -beta, jnp.sum(gamma, axis=0), jnp.sum(free, axis=0)), -t

    return found, jax.jvp(by_formula, primals[:3], tangents[:3])[1]


def _squared_weights(span: Span, change: ChangeInSpan) -> Array:
    """The squared norms of the columns of the weights as they are, (1, M)."""
    return jnp.maximum(span.squared + 2 * change.with_weights + _squared(change[:3], change[3:]), 0)[None, :]


def _moved(span: Span, change: ChangeInSpan, minus_beta: Array, gamma: Array, free: Array) -> ChangeInSpan:
    """The change with the mean of what the copies are moved by; of ``gamma`` and ``free`` the sums over the batch."""
    share = 1 / minus_beta.shape[0]
    grown = share * gamma
    return _with_products(
        span,
        of_rows=change.of_rows + (grown * change.of_rows - share * minus_beta),
        of_ones=change.of_ones + (grown * change.of_ones + share * free),
        of_weights=change.of_weights + (grown * change.of_weights + grown),
    )


def _with_products(span: Span, of_rows: Array, of_ones: Array, of_weights: Array) -> ChangeInSpan:
    """The change that is made of so much of what it is along."""
    gram = jnp.matmul(span.of_rows, of_rows, precision=lax.Precision.HIGHEST)
    return ChangeInSpan(
        of_rows,
        of_ones,
        of_weights,
        with_rows=gram + span.with_ones[:, None] * of_ones + span.with_weights * of_weights,
        with_ones=span.with_ones @ of_rows + span.length * of_ones + span.of_ones * of_weights,
        with_weights=jnp.sum(span.with_weights * of_rows, axis=0) + span.of_ones * of_ones + span.squared * of_weights,
    )
