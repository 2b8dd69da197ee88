"""Proximal operators of errors and the projection onto a box: against a search for the minimum, and by properties."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

import pjax_kernels as pk

Array = np.ndarray
Generator = np.random.Generator

ERRORS: list[tuple[Callable[..., Any], Callable[[Array], Array]]] = [
    (pk.prox_squared_error, np.square),
    (pk.prox_absolute_error, np.abs),
]


@pytest.mark.parametrize(("prox", "error"), ERRORS, ids=["squared", "absolute"])
def test_the_result_is_the_minimum(prox: Any, error: Any, implementation: str, rng: Generator) -> None:
    prediction, target = rng.normal(size=(2, 5, 3))
    weights = rng.uniform(0.1, 2, size=(5, 1))
    new = prox(prediction, target, strength=0.7, weights=weights, implementation=implementation)
    for i, j in np.ndindex(5, 3):

        def objective(x: float, i: int = i, j: int = j) -> float:
            return (x - prediction[i, j]) ** 2 / 1.4 + weights[i, 0] * error(x - target[i, j])

        found = minimize_scalar(objective, bracket=(prediction[i, j], target[i, j]), tol=1e-12)
        assert objective(new[i, j]) <= found.fun + 1e-12
        assert abs(new[i, j] - found.x) <= 1e-5


@pytest.mark.parametrize(("prox", "error"), ERRORS, ids=["squared", "absolute"])
def test_weights_of_0_leave_a_prediction_where_it_is(
    prox: Any, error: Any, implementation: str, rng: Generator
) -> None:
    prediction, target = rng.normal(size=(2, 4, 3))
    weights = np.array([0.0, 1, 0, 2])[:, None]
    change = prox(prediction, target, weights=weights, increments=True, implementation=implementation)
    assert (change[::2] == 0).all()
    assert (np.sign(change[1::2]) == np.sign(target - prediction)[1::2]).all()


@pytest.mark.parametrize(("prox", "error"), ERRORS, ids=["squared", "absolute"])
def test_small_errors_keep_their_precision(prox: Any, error: Any, rng: Generator) -> None:
    prediction = np.float32(rng.integers(1, 9, size=50))
    target = np.float32(prediction + 1e-5 * rng.normal(size=50))
    found = prox(prediction, target, strength=0.3, increments=True)
    exact = prox(np.float64(prediction), np.float64(target), strength=0.3, increments=True)
    assert np.linalg.norm(found - exact) <= 1e-6 * np.linalg.norm(exact)


def test_box(implementation: str, rng: Generator) -> None:
    value, low = rng.normal(size=(20, 3)), np.array([-0.5, -np.inf, 0.1])
    change = pk.project_box(value, low, 0.3, increments=True, implementation=implementation)
    np.testing.assert_allclose(value + change, np.clip(value, low, 0.3), atol=1e-15)
    inside = (value >= low) & (value <= 0.3)
    assert (change[inside] == 0).all()
    assert inside.any()
    assert not inside.all()


def test_cross_entropy_by_weights_is_that_of_other_strengths(implementation: str, rng: Generator) -> None:
    logits, labels = 3 * rng.normal(size=(5, 4)), np.eye(4)[[0, 1, 2, 3, 0]]
    weights = np.array([0, 0.1, 1, 2, 30.0])
    change = pk.prox_cross_entropy(logits, labels, weights=weights, increments=True, implementation=implementation)
    assert (change[0] == 0).all()
    for row in range(1, 5):
        alone = pk.prox_cross_entropy(logits[row], labels[row], strength=5 * weights[row], increments=True)
        np.testing.assert_allclose(change[row], alone, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kernel", [pk.prox_squared_error, pk.prox_absolute_error])
def test_weights_that_do_not_broadcast(kernel: Any) -> None:
    with pytest.raises(ValueError, match=r"weights has shape \(2,\), which does not broadcast to \(3,\)"):
        kernel(np.ones(3), np.ones(3), weights=np.ones(2))
