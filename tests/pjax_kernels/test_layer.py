"""Projection onto a whole layer: against a dense solve, and against its conditions of optimality."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import pjax_kernels as pk

from ..pairs import pairwise

Generator = np.random.Generator


def convolution(x: Any, w: Any) -> Any:
    return lax.conv_general_dilated(x, w, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def recurrence(x: Any, w: Any) -> Any:
    return x[0] @ w[0] + x[1] @ w[1]


LAYERS: dict[str, tuple[Callable[..., Any], Any, Any]] = {
    "dense": (jnp.matmul, (6, 5), (5, 4)),
    "convolution": (convolution, (2, 4, 4, 2), (3, 3, 2, 3)),
    "recurrence": (recurrence, ((2, 3, 4), (2, 3, 5)), ((4, 5), (5, 5))),
}
RULES = ["rank one", "apart", "coupled"]


def arrays(name: str, rng: Generator) -> tuple[Callable[..., Any], Any, Any, Any]:
    function, x_shape, w_shape = LAYERS[name]

    def normal(shape: Any) -> Any:
        return tuple(map(normal, shape)) if isinstance(shape[0], tuple) else rng.normal(0.5, 1, shape)

    x, w = normal(x_shape), normal(w_shape)
    output = function(x, w)
    return function, x, w, output + 0.1 * rng.normal(size=output.shape)


@pytest.mark.parametrize(("name", "rule", "moves_x"), pairwise(list(LAYERS), RULES, [True, False]))
def test_agrees_with_the_dense_solve(name: str, rule: str, moves_x: bool, rng: Generator) -> None:
    problem = arrays(name, rng)
    call = functools.partial(pk.project_layer, *problem, rule=rule, steps=60, moves_x=moves_x, increments=True)
    for found, expected in zip(
        jax.tree.leaves(call(implementation="xla")), jax.tree.leaves(call(implementation="reference")), strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("implementation", ["reference", "xla"])
def test_coupled_is_the_nearest_point_in_its_metric(implementation: str, rng: Generator) -> None:
    """No other point of the linearised constraint costs less."""
    function, x, w, z = arrays("dense", rng)
    b, c = 10.0, 2.0
    dx, dw, dz = pk.project_layer(
        function, x, w, z, rule="coupled", b=b, c=c, steps=60, increments=True, implementation=implementation
    )
    np.testing.assert_allclose(dx @ w + x @ dw - dz, z - x @ w, rtol=1e-6, atol=1e-9)
    mobility = b / np.sum(x**2)
    slack = c * (np.sum(w**2) / w.shape[1] + b / len(x))

    def cost(dx: Any, dw: Any, dz: Any) -> float:
        return float(np.sum(dx**2) + np.sum(dw**2) / mobility + np.sum(dz**2) / slack)

    for _ in range(50):
        more_x, more_w = 1e-2 * rng.normal(size=x.shape), 1e-2 * rng.normal(size=w.shape)
        assert cost(dx + more_x, dw + more_w, dz + more_x @ w + x @ more_w) > cost(dx, dw, dz)


@pytest.mark.parametrize("implementation", ["reference", "xla"])
def test_inputs_that_are_held_stay(implementation: str, rng: Generator) -> None:
    function, x, w, z = arrays("dense", rng)
    settings = {"rule": "coupled", "steps": 60, "moves_x": False, "increments": True}
    dx, dw, dz = pk.project_layer(function, x, w, z, implementation=implementation, **settings)
    assert not np.any(dx)
    np.testing.assert_allclose(x @ dw - dz, z - x @ w, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("rule", ["apart", "coupled"])
def test_what_steps_share_makes_no_difference(rule: str, rng: Generator) -> None:
    """The same map by another name has no products formed once."""
    function, x, w, z = arrays("dense", rng)
    shared, anew = (
        pk.project_layer(bilinear, x, w, z, rule=rule, steps=2, increments=True)
        for bilinear in (function, lambda x, w: x @ w)
    )
    for one, other in zip(shared, anew, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("implementation", ["reference", "xla"])
def test_rank_one_damps_the_mean_input_alone(implementation: str, rng: Generator) -> None:
    function, x, w, z = arrays("dense", rng)
    b = 10.0
    _, dw, _ = pk.project_layer(function, x, w, z, b=b, increments=True, implementation=implementation)
    gradient = x.T @ (z - x @ w) / np.sum(x**2)
    mean = x.mean(0) / np.linalg.norm(x.mean(0))
    q = b * np.sum((x @ mean) ** 2) / np.sum(x**2)
    np.testing.assert_allclose(mean @ dw, mean @ gradient / (1 + q), rtol=1e-10)
    across = np.eye(x.shape[1]) - np.outer(mean, mean)
    np.testing.assert_allclose(across @ dw, across @ gradient, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("implementation", ["reference", "xla"])
@pytest.mark.parametrize("rule", ["rank one", "apart"])
def test_apart_new_outputs_follow_from_the_new_weights(rule: str, implementation: str, rng: Generator) -> None:
    function, x, w, z = arrays("dense", rng)
    _, new_w, new_z = pk.project_layer(function, x, w, z, rule=rule, implementation=implementation)
    np.testing.assert_allclose(new_z, x @ new_w, rtol=1e-10)


@pytest.mark.parametrize("rule", RULES)
def test_small_residuals_keep_their_precision(rule: str, rng: Generator) -> None:
    """In float32, twenty powers of ten below the values."""
    function, x, w, z = arrays("dense", rng)
    x, w, z = (np.float32(array) for array in (x, w, z))
    residual = rng.normal(size=z.shape)
    call = functools.partial(pk.project_layer, function, rule=rule, increments=True)
    exact = call(*map(np.float64, (x, w, z)), residual=residual)
    small = call(x, w, z, residual=np.float32(1e-20 * residual))
    for found, expected in zip(small, exact, strict=True):
        assert found.dtype == np.float32
        np.testing.assert_allclose(np.float64(found) * 1e20, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("rule", RULES)
def test_feasible_points_and_zeros_stay(rule: str, rng: Generator) -> None:
    function, x, w, _ = arrays("dense", rng)
    for x_now in (x, np.zeros_like(x)):
        for change in pk.project_layer(function, x_now, w, x_now @ w, rule=rule, increments=True):
            np.testing.assert_allclose(change, 0, atol=1e-12)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rule": "all"}, "rule is 'all'; pass one of"),
        ({"b": 0}, "b is 0; pass a positive number"),
        ({"c": -1.0}, "c is -1.0; pass a positive number"),
        ({"steps": 0}, "steps is 0; pass an integer of at least 1"),
        ({"residual": np.zeros(3)}, r"residual has shape \(3,\)"),
        ({"implementation": "fast"}, "unknown implementation"),
    ],
)
def test_wrong_settings(settings: dict[str, Any], message: str, rng: Generator) -> None:
    with pytest.raises(ValueError, match=message):
        pk.project_layer(*arrays("dense", rng), **settings)


def test_weights_without_the_outputs_axis_are_no_layer(rng: Generator) -> None:
    x, w = rng.normal(size=(3, 4)), rng.normal(size=(2, 4))
    with pytest.raises(ValueError, match="the last axis of w"):
        pk.project_layer(lambda x, w: x @ w.T, x, w, x @ w.T)
