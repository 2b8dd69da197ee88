"""Fixtures that the tests of pjax_core share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import pytest


@pytest.fixture
def float64() -> Iterator[None]:
    """Double precision for one test; the others run in JAX's default, float32."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def generator() -> np.random.Generator:
    return np.random.default_rng(20250610)


@pytest.fixture
def one_hot(generator: np.random.Generator) -> Callable[[int, int], np.ndarray]:
    """``one_hot(rows, classes)``: random labels in which every class occurs while there are rows for it."""

    def labels(rows: int, classes: int) -> np.ndarray:
        return np.eye(classes)[generator.permutation(np.arange(rows) % classes)]

    return labels


def _norm(tree: Any) -> float:
    return float(np.sqrt(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(tree))))


@pytest.fixture
def change() -> Callable[..., Any]:
    """``change(solution, start)``: what a solution added to the parameters, its low parts included, in float64."""

    def compute(solution: Any, start: Any) -> Any:
        return jax.tree.map(
            lambda high, low, first: (np.float64(high) - np.float64(first)) + np.float64(low),
            solution.params,
            solution.params_low,
            start,
        )

    return compute


@pytest.fixture
def relative_error() -> Callable[[Any, Any], float]:
    """``relative_error(found, expected)``: the norm of the difference of two trees over that of the second."""

    def compute(found: Any, expected: Any) -> float:
        return _norm(jax.tree.map(lambda a, b: np.float64(a) - np.float64(b), found, expected)) / _norm(expected)

    return compute
