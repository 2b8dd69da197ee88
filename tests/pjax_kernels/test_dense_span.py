"""The projection onto a dense layer of data whose weights are held in the span of the batch."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pjax_kernels as pk
from pjax_kernels.compose import ChangeInSpan, Span, no_change_in_span, project_dense_in_span, span_of

from .code_generation import AS_FOR_USERS
from .test_dense import as_float64

Generator = np.random.Generator

BATCH, LENGTH, COLUMNS = 5, 14, 6

project = jax.jit(project_dense_in_span, compiler_options=AS_FOR_USERS)


def layer(rng: Generator, dtype: Any = np.float32) -> tuple[np.ndarray, np.ndarray]:
    return rng.normal(size=(BATCH, LENGTH)).astype(dtype), rng.normal(size=(LENGTH, COLUMNS)).astype(dtype)


def targets(rng: Generator, products: Any, size: float) -> np.ndarray:
    """What products are asked to be, from them."""
    return products + size * rng.normal(size=np.shape(products))


@pytest.mark.parametrize("size", [1e-6, 0.3, 30.0])
def test_several_moves_are_those_of_whole_weights(size: float, rng: Generator) -> None:
    """In float32, against float64 that moves all weights: relative errors of their change, and of that of z."""
    x, w = layer(rng)
    span = span_of(jnp.asarray(x), jnp.asarray(w))
    change = no_change_in_span(span)
    exact_x, exact_w = as_float64((x, w))
    moved = np.zeros_like(exact_w)
    for _ in range(4):
        products = exact_x @ exact_w + exact_x @ moved
        z = targets(rng, products, size)
        residual = z - products
        expected = pk.project_dense(exact_x, exact_w + moved, z, residual=residual, increments=True)
        change, z_change = project(span, change, np.float32(z), np.float32(residual))
        moved = moved + expected[1]
        assert np.linalg.norm(z_change - expected[2]) < 3e-6 * np.linalg.norm(expected[2])
        found = change.weights(x, w)
        assert np.linalg.norm(found - moved) < 3e-6 * np.linalg.norm(moved)
        np.testing.assert_allclose(change.norms(), np.linalg.norm(moved, axis=0), rtol=1e-5)
        np.testing.assert_allclose(change.with_rows, exact_x @ moved, rtol=0, atol=1e-5 * np.abs(exact_x @ moved).max())


@pytest.mark.parametrize("scale", [1e-25, 1.0])
def test_norms_of_changes_whose_squares_vanish(scale: float, rng: Generator) -> None:
    x, w = layer(rng)
    rows = jnp.asarray(rng.normal(size=(BATCH, COLUMNS)), jnp.float32)
    none = no_change_in_span(span_of(jnp.asarray(x), jnp.asarray(w)))
    change = none._replace(of_rows=np.float32(scale) * rows, with_rows=np.float32(scale) * (x @ x.T @ rows))
    expected = np.linalg.norm(np.float64(change.weights(x, w)) / scale, axis=0) * scale
    np.testing.assert_allclose(change.norms(), expected, rtol=1e-5)


def test_where_there_is_a_choice_it_is_that_of_whole_weights(rng: Generator) -> None:
    """Rows and columns of zeros: any direction is as near, and ones are taken."""
    x, w = layer(rng, np.float64)
    x[1], w[:, 2] = 0, 0
    z = targets(rng, x @ w, 3)
    expected = pk.project_dense(x, w, z, increments=True)
    span = span_of(jnp.asarray(x), jnp.asarray(w))
    change, z_change = project(span, no_change_in_span(span), z, z - x @ w)
    assert np.any(change.of_ones != 0)
    np.testing.assert_allclose(change.weights(x, w), expected[1], rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(z_change, expected[2], rtol=1e-12, atol=1e-14)


def test_opposite_weights_may_lose_all_they_are(rng: Generator) -> None:
    """Norms are never negative, however little is left of the weights."""
    x, w = layer(rng)
    span = span_of(jnp.asarray(x), jnp.asarray(w))
    gone = ChangeInSpan(*(-part if part.ndim == 1 else part for part in _the_weights(span)))
    assert np.abs(gone.weights(x, w) + w).max() < 1e-6
    z = np.float32(rng.normal(size=(BATCH, COLUMNS)))
    change, z_change = project(span, gone, z, z)
    assert np.isfinite(z_change).all()
    assert all(np.isfinite(part).all() for part in change)


def _the_weights(span: Span) -> ChangeInSpan:
    """What adds the weights at the start once more; of rows its negative, so that only vectors need a sign."""
    one, none = jnp.ones_like(span.squared), jnp.zeros_like(span.squared)
    return ChangeInSpan(jnp.zeros_like(span.with_weights), none, one, -span.with_weights, span.of_ones, span.squared)
