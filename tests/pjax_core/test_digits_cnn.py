"""A CNN on digits: its filters learn by directions, and where they stand still, something says so."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import Array, lax

import pjax_core as pj

pytest.importorskip("sklearn", reason="the digits are scikit-learn's")
from benchmarks.train import datasets  # it imports scikit-learn

BATCH, UPDATES = 64, 300


def network(params: dict[str, Any], x: Any) -> Any:
    h = lax.conv_general_dilated(x, params["w0"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    h = jax.nn.relu(h + params["b0"])
    h = lax.reduce_window(h, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    return h.reshape(h.shape[0], -1) @ params["w1"]


@pytest.fixture(scope="module")
def digits() -> datasets.Dataset:
    return datasets.load_digits()


@pytest.fixture
def params() -> dict[str, Array]:
    keys = jax.random.split(jax.random.key(0))
    return {
        "w0": jnp.sqrt(2 / 9) * jax.random.normal(keys[0], (3, 3, 1, 8)),
        "b0": jnp.zeros(8),
        "w1": jnp.sqrt(2 / 128) * jax.random.normal(keys[1], (128, 10)),
    }


@pytest.mark.parametrize("dot_products", ["each", "layer"])
def test_its_filters_learn(dot_products: Any, digits: datasets.Dataset, params: dict[str, Array]) -> None:
    problem = pj.feasibility(
        lambda p, x, y: pj.cross_entropy(network(p, x), y, strength=0.5), dot_products=dot_products
    )
    optimizer = optax.adam(1e-2)

    @jax.jit
    def update(params: Any, state: Any, x: Any, y: Any) -> Any:
        changes, state = optimizer.update(pj.direction(problem, params, x, y), state)
        return optax.apply_updates(params, changes), state

    def accuracy(params: Any) -> float:
        return float(np.mean(np.argmax(network(params, digits.x_test), -1) == np.argmax(digits.y_test, -1)))

    learned, state, generator = params, optimizer.init(params), np.random.default_rng(0)
    for _ in range(UPDATES):
        chosen = generator.integers(len(digits.x_train), size=BATCH)
        learned, state = update(learned, state, digits.x_train[chosen], digits.y_train[chosen])
    assert jnp.linalg.norm(learned["w0"] - params["w0"]) > 0.1 * jnp.linalg.norm(params["w0"])
    assert accuracy(learned) > 0.94
    assert accuracy(learned | {"w0": params["w0"], "b0": params["b0"]}) < accuracy(learned) - 0.03


def test_filters_that_stand_still_are_named(digits: datasets.Dataset, params: dict[str, Array]) -> None:
    problem = pj.feasibility(lambda p, x, y: pj.cross_entropy(network(p, x), y, strength=0.01))
    with pytest.warns(RuntimeWarning, match=r"params\['w0'\] moved by less than rounding"):
        solution = pj.solve(
            problem,
            params,
            digits.x_train[:BATCH],
            digits.y_train[:BATCH],
            algorithm=pj.alternating_projections(),
            steps=5,
        )
    assert solution.info.movement["w0"] < 1e-7 < solution.info.movement["w1"]
