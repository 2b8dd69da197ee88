"""The output constraints: margin against clipping, cross-entropy against Lambert's W and its optimality condition."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pjax_kernels as pk
import pytest
from jax.typing import DTypeLike

from . import oracles

Array = np.ndarray
Generator = np.random.Generator

STATIC = ("increments", "implementation")
project_margin = jax.jit(pk.project_margin, static_argnames=STATIC)
prox_cross_entropy = jax.jit(pk.prox_cross_entropy, static_argnames=(*STATIC, "strength"))

ROWS, CLASSES = 12, 5
STRENGTHS = [1e-3, 0.5, 5.0, 1000.0]
LABELS = ["one-hot", "soft", "uniform"]
SCALES = [0.1, 3.0, 50.0]

ULPS = 4
"""Rounding errors allowed, relative to the change, times what the exponentials make of the logits' rounding."""


def compute_eps(dtype: DTypeLike) -> float:
    return float(jnp.finfo(jnp.promote_types(dtype, jnp.float32)).eps)


def as_float64(array: jax.typing.ArrayLike) -> Array:
    return np.asarray(array).astype(np.float64)


def logits_and_labels(rng: Generator, kind: str, scale: float, dtype: DTypeLike) -> tuple[Array, Array]:
    """Labels of eighths, which every dtype holds exactly, so that they add up to 1."""
    logits = scale * rng.normal(size=(ROWS, CLASSES))
    logits[::3, 1] = logits[::3, 0]  # equal largest logits, among others
    labels = {
        "one-hot": np.eye(CLASSES)[rng.integers(CLASSES, size=ROWS)],
        "soft": rng.multinomial(8, [0.5, 0.2, 0.1, 0.1, 0.1], ROWS) / 8,
        "uniform": np.tile([0.25, 0.25, 0.25, 0.125, 0.125], (ROWS, 1)),
    }
    return logits.astype(dtype), labels[kind].astype(dtype)


# Cross-entropy.


def objective(x: Array, logits: Array, labels: Array, strength: float) -> Array:
    shifted = x - x.max(axis=-1, keepdims=True)
    cross_entropy = np.log(np.sum(np.exp(shifted), axis=-1)) - np.sum(labels * shifted, axis=-1)
    return np.sum((x - logits) ** 2, axis=-1) / (2 * strength) + cross_entropy


def softmax(x: Array) -> Array:
    exponentials = np.exp(x - x.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


@pytest.mark.parametrize("kind", LABELS)
@pytest.mark.parametrize("strength", STRENGTHS)
def test_cross_entropy_agrees_with_lambert_w(
    strength: float, kind: str, implementation: str, dtype: DTypeLike, rng: Generator
) -> None:
    for scale in SCALES:
        logits, labels = logits_and_labels(rng, kind, scale, dtype)
        change = prox_cross_entropy(
            logits, labels, strength=strength, increments=True, implementation=implementation
        )
        expected = oracles.cross_entropy_change(as_float64(logits), as_float64(labels), strength)
        error = np.linalg.norm(change - expected, axis=-1) / compute_eps(dtype)
        rel=error/np.linalg.norm(expected, axis=-1)/(1+abs(as_float64(logits)).max(axis=-1))
        ab=error/(strength*(1+abs(as_float64(logits)).max(axis=-1)))
        print("MEASURE", implementation, dtype, kind, strength, scale, "abs", ab.max(), "rel", rel.max())
