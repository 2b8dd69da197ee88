"""The output constraints: margin against clipping, cross-entropy against Lambert's W and its optimality condition."""

import math
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.typing import DTypeLike

import pjax_kernels as pk

from ..pairs import pairwise
from . import oracles
from .code_generation import AS_FOR_USERS

Array = np.ndarray
Generator = np.random.Generator

STATIC = ("increments", "implementation")
project_margin = jax.jit(pk.project_margin, static_argnames=STATIC, compiler_options=AS_FOR_USERS)
# One program for all strengths, which are traced.
prox_cross_entropy = jax.jit(pk.prox_cross_entropy, static_argnames=STATIC, compiler_options=AS_FOR_USERS)

CLASSES = 5
STRENGTHS = [1e-3, 5.0, 1000.0]
LABELS = ["one-hot", "soft", "uniform"]
DTYPES = [jnp.dtype(name) for name in ("float16", "bfloat16", "float32", "float64")]
SCALES = np.repeat([0.1, 3.0, 50.0], 4)

ULPS = 4
"""Rounding errors allowed, times what the exponentials make of the logits' rounding."""


def compute_eps(dtype: DTypeLike) -> float:
    return float(jnp.finfo(jnp.promote_types(dtype, jnp.float32)).eps)


def as_float64(array: jax.typing.ArrayLike) -> Array:
    return np.asarray(array).astype(np.float64)


@cache
def logits_and_labels(kind: str, dtype: DTypeLike) -> tuple[Array, Array]:
    """Labels of eighths, which every dtype holds exactly, so that they add up to 1."""
    rng = np.random.default_rng(LABELS.index(kind))
    rows = len(SCALES)
    logits = SCALES[:, None] * rng.normal(size=(rows, CLASSES))
    logits[::4, :2] = abs(logits[::4]).max(axis=1, keepdims=True)  # two largest ones
    labels = {
        "one-hot": np.eye(CLASSES)[rng.integers(CLASSES, size=rows)],
        "soft": rng.multinomial(8, [0.5, 0.2, 0.1, 0.1, 0.1], rows) / 8,
        "uniform": np.tile([0.25, 0.25, 0.25, 0.125, 0.125], (rows, 1)),
    }
    labels["one-hot"][-1] = np.eye(CLASSES)[0]
    logits[-1, 0] = logits[-1].max() + 30  # that label is nearly reached
    return logits.astype(dtype), labels[kind].astype(dtype)


@cache
def expected_change(kind: str, dtype: DTypeLike, strength: float) -> Array:
    logits, labels = logits_and_labels(kind, dtype)
    return oracles.cross_entropy_change(as_float64(logits), as_float64(labels), strength)


def change_of(logits: Array, labels: Array, strength: float, implementation: str) -> Array:
    return as_float64(
        prox_cross_entropy(logits, labels, strength=strength, increments=True, implementation=implementation)
    )


def rounding(logits: Array, dtype: DTypeLike) -> Array:
    """Relative error of an exponential of the logits."""
    return compute_eps(dtype) * (1 + abs(as_float64(logits)).max(axis=-1))


# Cross-entropy.


def objective(x: Array, logits: Array, labels: Array, strength: float) -> Array:
    shifted = x - x.max(axis=-1, keepdims=True)
    cross_entropy = np.log(np.sum(np.exp(shifted), axis=-1)) - np.sum(labels * shifted, axis=-1)
    return np.sum((x - logits) ** 2, axis=-1) / (2 * strength) + cross_entropy


def softmax(x: Array) -> Array:
    exponentials = np.exp(x - x.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


@pytest.mark.parametrize(("strength", "kind", "dtype"), pairwise(STRENGTHS, LABELS, DTYPES))
def test_cross_entropy_agrees_with_lambert_w(strength: float, kind: str, implementation: str, dtype: DTypeLike) -> None:
    logits, labels = logits_and_labels(kind, dtype)
    change = change_of(logits, labels, strength, implementation)
    error = np.linalg.norm(change - expected_change(kind, dtype, strength), axis=-1)
    assert (error < ULPS * strength * rounding(logits, dtype)).all()


@pytest.mark.parametrize("strength", STRENGTHS[:-1])
def test_cross_entropy_keeps_relative_accuracy_where_the_label_is_nearly_reached(
    strength: float, dtype: DTypeLike
) -> None:
    logits, labels = logits_and_labels("one-hot", dtype)
    expected = expected_change("one-hot", dtype, strength)
    size = np.linalg.norm(expected, axis=-1)
    assert size.min() < 1e-9 * strength
    error = np.linalg.norm(change_of(logits, labels, strength, "xla") - expected, axis=-1)
    assert (error < ULPS * size * rounding(logits, dtype)).all()


@pytest.mark.parametrize("kind", LABELS)
@pytest.mark.parametrize("strength", STRENGTHS)
def test_cross_entropy_reaches_the_minimum(strength: float, kind: str, implementation: str, rng: Generator) -> None:
    logits, labels = logits_and_labels(kind, np.float64)
    x = logits + change_of(logits, labels, strength, implementation)
    minimum = objective(x, logits, labels, strength)
    for scale in (1e-3, 1e-2, 0.1, 1, 10, 100):
        for centre in (x, logits, labels):
            samples = centre + scale * rng.normal(size=(200, *x.shape))
            assert (objective(samples, logits, labels, strength) >= minimum * (1 - 1e-12) - 1e-13).all()


@pytest.mark.parametrize("kind", LABELS)
@pytest.mark.parametrize("strength", STRENGTHS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_cross_entropy_satisfies_its_optimality_condition(
    strength: float, kind: str, implementation: str, dtype: DTypeLike
) -> None:
    """``x = logits + strength (labels - softmax(x))``; where it is added up, the change adds up to 0."""
    logits, labels = logits_and_labels(kind, jnp.dtype(dtype))
    change = change_of(logits, labels, strength, implementation)
    pull = strength * (labels - softmax(logits + change))
    # The change of an eigenvalue up to 1 + strength/2 multiplies an error of x.
    tolerance = ULPS * strength * (1 + strength / 2) * rounding(logits, dtype)
    assert (np.linalg.norm(change - pull, axis=-1) < tolerance).all()
    assert (abs(change.sum(axis=-1)) < ULPS * strength * rounding(logits, dtype)).all()


@pytest.mark.parametrize("strength", [1e-6, 1e6])
def test_cross_entropy_at_extreme_strengths_and_logits(strength: float, implementation: str, rng: Generator) -> None:
    """Weak: ``strength`` times the gradient.  Strong: the labels themselves, up to what the logits are worth."""
    logits = rng.normal(size=(50, 7)) * np.repeat([1, 1e4], 25)[:, None]
    labels = rng.dirichlet(np.ones(7), 50)
    change = change_of(logits, labels, strength, implementation)
    gradient_step = strength * (labels - softmax(logits))
    if strength < 1:
        np.testing.assert_allclose(change[:25], gradient_step[:25], rtol=1e-5, atol=1e-12)
    else:
        np.testing.assert_allclose(softmax(logits + change)[:25], labels[:25], rtol=0, atol=1e-4)
    assert np.isfinite(change).all()


def test_cross_entropy_without_rounding_to_the_dtype(implementation: str, dtype: DTypeLike) -> None:
    logits, labels = logits_and_labels("soft", dtype)
    new = prox_cross_entropy(logits, labels, implementation=implementation)
    assert new.dtype == dtype
    expected = as_float64(logits) + expected_change("soft", dtype, 5.0)
    allowed = 0.51 * float(jnp.finfo(dtype).eps) * abs(expected) + ULPS * 5 * rounding(logits, dtype)[:, None]
    assert (abs(as_float64(new) - expected) <= allowed).all()


@pytest.mark.parametrize("kind", LABELS)
def test_cross_entropy_symmetries(kind: str, implementation: str, rng: Generator) -> None:
    """Permuted classes permute the result; a constant added to all logits is added to the result."""
    logits, labels = logits_and_labels(kind, np.float64)
    change = change_of(logits, labels, 5.0, implementation)
    order = rng.permutation(CLASSES)
    permuted = change_of(logits[:, order], labels[:, order], 5.0, implementation)
    shifted = change_of(logits + 17.0, labels, 5.0, implementation)
    np.testing.assert_allclose(permuted, change[:, order], rtol=0, atol=5e-13)
    np.testing.assert_allclose(shifted, change, rtol=0, atol=5e-13)


def test_cross_entropy_is_firmly_nonexpansive(implementation: str, rng: Generator) -> None:
    """As every proximal operator of a convex function: ``|Tx - Ty|^2 <= (Tx - Ty).(x - y)``."""
    labels = rng.dirichlet(np.ones(CLASSES), 300)
    x, y = rng.normal(size=(2, 300, CLASSES)) * 10 ** rng.uniform(-3, 2, (2, 300, 1))
    step = x + change_of(x, labels, 5.0, implementation) - (y + change_of(y, labels, 5.0, implementation))
    assert (np.sum(step * step, -1) <= np.sum(step * (x - y), -1) * (1 + 1e-12) + 1e-12).all()
    assert (np.sum(step * step, -1) < 0.999 * np.sum((x - y) ** 2, -1)).mean() > 0.5


@pytest.mark.parametrize("shape", [(4,), (1,), (3, 1), (2, 3, 4), (2, 1, 2, 300)])
def test_cross_entropy_any_leading_axes(shape: tuple[int, ...], implementation: str, rng: Generator) -> None:
    logits, labels = rng.normal(size=shape), rng.dirichlet(np.ones(shape[-1]), shape[:-1])
    project = jax.jit(partial(pk.prox_cross_entropy, strength=5.0, increments=True, implementation=implementation))
    change = as_float64(project(logits, labels))
    assert change.shape == shape
    np.testing.assert_allclose(change, 5 * (labels - softmax(logits + change)), rtol=0, atol=1e-13 * math.prod(shape))


# Margin.


def margin_inputs(rng: Generator, dtype: DTypeLike) -> tuple[Array, Array]:
    """Labels of zero and of several margins; some logits on the boundary."""
    labels = rng.choice([0.0, 0.0, 1.0, 0.5, 3.0], (40, CLASSES))
    logits = 2 * rng.normal(size=labels.shape)
    logits[::5] = labels[::5]
    return logits.astype(dtype), labels.astype(dtype)


def test_margin_agrees_with_clipping(implementation: str, dtype: DTypeLike, rng: Generator) -> None:
    logits, labels = margin_inputs(rng, dtype)
    wide_logits, wide_labels = as_float64(logits), as_float64(labels)
    low, high = np.where(wide_labels > 0, wide_labels, -np.inf), np.where(wide_labels > 0, np.inf, 0)
    expected = np.clip(wide_logits, low, high)
    new = project_margin(logits, labels, implementation=implementation)
    assert new.dtype == dtype
    allowed = float(jnp.finfo(dtype).eps) * abs(expected) + compute_eps(dtype) * abs(wide_logits)
    assert (abs(as_float64(new) - expected) <= allowed).all()

    change = as_float64(project_margin(logits, labels, increments=True, implementation=implementation))
    np.testing.assert_allclose(change, expected - wide_logits, rtol=compute_eps(dtype), atol=0)
    moves = expected != wide_logits
    assert (change[~moves] == 0).all()
    assert moves.any()


def test_margin_moves_only_once(implementation: str, dtype: DTypeLike, rng: Generator) -> None:
    logits, labels = margin_inputs(rng, dtype)
    new = project_margin(logits, labels, implementation=implementation)
    again = as_float64(project_margin(new, labels, increments=True, implementation=implementation))
    size = abs(as_float64(logits)) + as_float64(labels)
    assert (abs(again) <= float(jnp.finfo(dtype).eps) * size).all()


def test_no_feasible_logits_are_nearer_than_the_margin(implementation: str, rng: Generator) -> None:
    logits, labels = margin_inputs(rng, np.float64)
    new = as_float64(project_margin(logits, labels, implementation=implementation))
    for scale in (1e-4, 1e-2, 1, 10):
        for centre in (new, logits):
            samples = centre + scale * rng.normal(size=(500, *logits.shape))
            feasible = np.where(labels > 0, samples >= labels, samples <= 0)
            assert feasible.any()
            assert (abs(samples - logits) >= abs(new - logits) - 1e-15)[feasible].all()


@pytest.mark.parametrize("shape", [(), (1,), (2, 3, 4)])
def test_margin_any_shape(shape: tuple[int, ...], implementation: str, rng: Generator) -> None:
    logits, labels = rng.normal(size=shape), rng.choice([0.0, 1.0], shape)
    new = project_margin(logits, labels, implementation=implementation)
    assert new.shape == shape
    assert (np.where(labels > 0, new >= labels, new <= 0)).all()
