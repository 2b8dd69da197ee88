"""Runs can be differentiated: by their start, their data and the strength of outputs, in both modes."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest

import pjax_core as pj

pytestmark = pytest.mark.usefixtures("float64")

BATCH, INPUTS, HIDDEN, CLASSES, STEPS = 3, 8, 4, 3, 4
STEP = 1e-5
ALGORITHMS = {
    "ap": pj.alternating_projections(),
    "ap in turn": pj.alternating_projections(in_turn=True),
    "dr": pj.douglas_rachford(copies="dense"),
    "dr, factored": pj.douglas_rachford(copies=pj.Factored(history=1)),
}


def network(params: Any, x: Any, y: Any, strength: Any) -> Any:
    """With a first layer whose weights stay in the span of the batch."""
    hidden = jax.nn.relu(x @ params["w0"] + params["b0"])
    return pj.cross_entropy(hidden @ params["w1"], y, strength=strength)


PROBLEM = pj.feasibility(network)


def flat(tree: Any) -> np.ndarray:
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_run_has_the_derivative_of_differences(name: str, generator: np.random.Generator) -> None:
    shapes = {"w0": (INPUTS, HIDDEN), "b0": (HIDDEN,), "w1": (HIDDEN, CLASSES)}
    params = {key: generator.normal(size=shape) for key, shape in shapes.items()}
    start = params, generator.normal(size=(BATCH, INPUTS)), np.float64(5.0)
    direction = jax.tree.map(lambda array: generator.normal(size=np.shape(array)), start)
    weights = jax.tree.map(lambda array: generator.normal(size=array.shape), params)
    y = np.arange(BATCH) % CLASSES

    def change(start: Any) -> Any:
        params, x, strength = start
        solution = pj.solve(PROBLEM, params, x, y, strength, algorithm=ALGORITHMS[name], steps=STEPS, tolerance=np.inf)
        return solution.change

    @jax.jit
    def there_and_back(start: Any) -> Any:
        found, pushed = jax.jvp(change, (start,), (direction,))
        return found, pushed, jax.vjp(change, start)[1](weights)[0]

    def shifted(steps: int) -> np.ndarray:
        return flat(there_and_back(jax.tree.map(lambda s, d: s + steps * STEP * d, start, direction))[0])

    expected = (8 * (shifted(1) - shifted(-1)) - (shifted(2) - shifted(-2))) / (12 * STEP)
    _, pushed, pulled = there_and_back(start)
    assert np.linalg.norm(flat(pushed) - expected) <= 1e-6 * np.linalg.norm(expected)
    np.testing.assert_allclose(flat(pulled) @ flat(direction), flat(weights) @ flat(pushed), rtol=1e-9)
