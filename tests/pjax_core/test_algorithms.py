"""Algorithms and the loop: convergence, transformations, dtypes."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import pjax_core as pj

ALGORITHMS = {
    "ap": pj.alternating_projections(),
    "ap in turn": pj.alternating_projections(in_turn=True),
    "cp": pj.cyclic_projections(),
}
REFLECTING = [
    pj.douglas_rachford(0.3, copies=pj.Factored()),
    pj.alternating_reflections(copies="dense"),
    pj.difference_map(0.5, copies="dense"),
    pj.cyclic_douglas_rachford(copies=pj.Factored()),
]
Params = dict[str, Any]
STEPS = 5
FEASIBLE_STEPS = 3000


def network(params: Params, x: Any) -> Any:
    h = pj.sum_relu(pj.matmul(x, params["w0"]), params["b0"])
    return pj.matmul(h, params["w1"])


def margin(params: Params, x: Any, y: Any) -> Any:
    return pj.margin_loss(network(params, x), y)


def error(params: Params, x: Any, y: Any) -> Any:
    return pj.squared_error(network(params, x), y)


MARGIN = pj.feasibility(margin)
ERROR = pj.feasibility(error)


@pytest.fixture(params=ALGORITHMS)
def algorithm(request: pytest.FixtureRequest) -> pj.Algorithm:
    return ALGORITHMS[request.param]


@pytest.fixture
def params(generator: np.random.Generator) -> Params:
    shapes = {"w0": (6, 16), "b0": (16,), "w1": (16, 3)}
    return {name: np.float32(0.4 * generator.normal(size=shape)) for name, shape in shapes.items()}


@pytest.fixture
def data(generator: np.random.Generator, one_hot: Any) -> tuple[np.ndarray, np.ndarray]:
    return np.float32(generator.normal(size=(8, 6))), np.float32(one_hot(8, 3))


def assert_trees_close(found: Any, expected: Any, **tolerances: float) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerances), found, expected)


def test_a_feasible_problem_is_solved(algorithm: pj.Algorithm, params: Params, data: Any) -> None:
    """More hidden units than samples: a network that satisfies the margin exists, and is found."""
    start = float(margin_violation(params, *data))
    solution = pj.solve(MARGIN, params, *data, algorithm=algorithm, steps=FEASIBLE_STEPS)
    assert float(margin_violation(solution.params, *data)) < 1e-6 * start
    assert solution.info.residual[-1] < 1e-3 * solution.info.residual[0]


def margin_violation(params: Params, x: Any, y: Any) -> Any:
    return pj.margin_loss(network(params, x), y)


def test_a_solution_stays(algorithm: pj.Algorithm, params: Params, data: Any) -> None:
    solved = pj.solve(MARGIN, params, *data, algorithm=algorithm, steps=FEASIBLE_STEPS).params
    # Half the margin holds with room to spare, but for the logits that are at their bound 0.
    halved = (data[0], data[1] / 2)
    solution = pj.solve(MARGIN, solved, *halved, algorithm=algorithm, steps=FEASIBLE_STEPS)
    assert_trees_close(solution.params, solved, rtol=0, atol=1e-4)
    assert solution.info.residual[0] < 1e-4


def test_the_loss_falls(algorithm: pj.Algorithm, params: Params, data: Any) -> None:
    losses = [float(error(params, *data))]
    for _ in range(12):
        params = pj.solve(ERROR, params, *data, algorithm=algorithm, steps=STEPS).params
        losses.append(float(error(params, *data)))
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0] / 2


def test_steps_by_hand(algorithm: pj.Algorithm, params: Params, data: Any) -> None:
    solution = pj.solve(ERROR, params, *data, algorithm=algorithm, steps=STEPS)
    state = algorithm.init(ERROR, params, *data)
    for _ in range(STEPS):
        state = algorithm.step(ERROR, state)
    assert_trees_close(algorithm.params(state), solution.params, rtol=1e-6, atol=1e-6)
    assert_trees_close(algorithm.params(solution.state), solution.params, rtol=0)
    assert_trees_close(algorithm.params_low(solution.state), solution.params_low, rtol=0)
    assert jax.tree.structure(state) == jax.tree.structure(solution.state)


def test_no_steps(algorithm: pj.Algorithm, params: Params, data: Any) -> None:
    solution = pj.solve(ERROR, params, *data, algorithm=algorithm, steps=0)
    assert_trees_close(solution.params, params, rtol=0)
    assert solution.info.residual.shape == (0,)


def test_solve_goes_on_step_by_step(params: Params, data: Any) -> None:
    """The iterates of a longer run begin with those of a shorter one."""
    short, long = (
        pj.solve(ERROR, params, *data, algorithm=ALGORITHMS["ap"], steps=steps).info.residual for steps in (STEPS, 9)
    )
    assert short.shape == (STEPS,)
    assert long.shape == (9,)
    np.testing.assert_allclose(long[:STEPS], short, rtol=1e-4)


def solve_in_jit(algorithm: pj.Algorithm, params: Params, x: Any, y: Any) -> Any:
    return pj.solve(ERROR, params, x, y, algorithm=algorithm, steps=STEPS).params


def scan_in_jit(algorithm: pj.Algorithm, params: Params, x: Any, y: Any) -> Any:
    def step(state: Any, _: None) -> tuple[Any, None]:
        return algorithm.step(ERROR, state), None

    state, _ = lax.scan(step, algorithm.init(ERROR, params, x, y), length=STEPS)
    return algorithm.params(state)


@pytest.mark.parametrize("function", [solve_in_jit, scan_in_jit])
def test_under_jit(function: Any, params: Params, data: Any) -> None:
    algorithm = ALGORITHMS["ap"]
    expected = pj.solve(ERROR, params, *data, algorithm=algorithm, steps=STEPS).params
    found = jax.jit(function, static_argnums=0)(algorithm, params, *data)
    assert_trees_close(found, expected, rtol=1e-5, atol=1e-6)


def test_nested_params(params: Params, data: Any) -> None:
    nested = {"hidden": [(params["w0"], params["b0"])], "output": {"w": params["w1"]}}

    def function(p: Any, batch: dict[str, Any]) -> Any:
        (w0, b0), w1 = p["hidden"][0], p["output"]["w"]
        return pj.squared_error(network({"w0": w0, "b0": b0, "w1": w1}, batch["x"]), batch["y"])

    batch = dict(zip("xy", data, strict=True))
    solution = pj.solve(pj.feasibility(function), nested, batch, algorithm=ALGORITHMS["ap"], steps=STEPS)
    flat = pj.solve(ERROR, params, *data, algorithm=ALGORITHMS["ap"], steps=STEPS)
    assert jax.tree.structure(solution.params) == jax.tree.structure(nested)
    assert jax.tree.structure(solution.params_low) == jax.tree.structure(nested)
    expected = {"hidden": [(flat.params["w0"], flat.params["b0"])], "output": {"w": flat.params["w1"]}}
    assert_trees_close(solution.params, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
def test_dtypes(dtype: str, algorithm: pj.Algorithm, params: Params, data: Any, relative_error: Any) -> None:
    with jax.enable_x64(dtype == "float64"):
        cast, (x, y) = jax.tree.map(lambda a: jnp.asarray(a, dtype), (params, data))
        solution = pj.solve(ERROR, cast, x, y, algorithm=algorithm, steps=STEPS)
        assert {leaf.dtype for leaf in jax.tree.leaves(solution.params)} == {jnp.dtype(dtype)}
        assert all(np.all(np.isfinite(np.float64(leaf))) for leaf in jax.tree.leaves(solution))
    expected = pj.solve(ERROR, params, *data, algorithm=algorithm, steps=STEPS).params
    assert relative_error(solution.params, expected) < 4 * float(jnp.finfo(dtype).eps) + 1e-6


# Dense copies and factored ones in turn: what they keep does not depend on the algorithm. With a metric identities
# stand between operations, and what the outputs ask takes two steps for each layer.
DEEP_RUNS = [(algorithm, 6) for algorithm in (*ALGORITHMS.values(), *REFLECTING)]
DEEP_RUNS.append((pj.douglas_rachford(gamma=1e-3, copies="dense"), 12))


@pytest.mark.parametrize(("algorithm", "steps"), DEEP_RUNS, ids=repr)
def test_float32_loses_no_change_of_deep_layers(
    algorithm: pj.Algorithm, steps: int, generator: np.random.Generator, one_hot: Any, relative_error: Any
) -> None:
    """The first layer's change is far below what float32 can add to a value."""
    sizes = (20, 24, 24, 3)
    weights = [generator.normal(size=s) * np.sqrt(2 / s[0]) for s in zip(sizes[:-1], sizes[1:], strict=True)]
    biases = [0.1 * generator.normal(size=size) for size in sizes[1:-1]]
    x, y = generator.uniform(size=(16, 20)), one_hot(16, 3)

    def changes(dtype: str) -> list[np.ndarray]:
        arrays = jax.tree.map(lambda a: jnp.asarray(np.float32(a), dtype), ((weights, biases), x, y))
        run = functools.partial(pj.solve, DEEP, algorithm=algorithm, steps=steps, tolerance=np.inf)
        return [np.asarray(change, np.float64) for change in jax.jit(lambda *a: run(*a).change[0])(*arrays)]

    with jax.enable_x64(True):
        exact = changes("float64")
    assert 0 < np.linalg.norm(exact[0]) < 1e-8 * np.linalg.norm(weights[0])
    for change, expected in zip(changes("float32"), exact, strict=True):
        assert relative_error(change, expected) < 1e-4


@pj.feasibility
def DEEP(params: Any, x: Any, y: Any) -> Any:
    weights, biases = params
    for w, b in zip(weights[:-1], biases, strict=True):
        x = jax.nn.relu(x @ w + b)
    return pj.squared_error(x @ weights[-1], y, strength=1e-6)


def test_residual_is_the_rms_change(algorithm: pj.Algorithm, params: Params, data: Any, float64: None) -> None:
    """Over all that the state holds but the data, a parameter being the sum of its high and low parts."""

    def contents(state: Any) -> list[np.ndarray]:
        parameters = jax.tree.map(lambda high, low: np.asarray(high) + np.asarray(low), state.high, state.low)
        return [np.asarray(leaf) for leaf in jax.tree.leaves((parameters, state.values, state.targets))]

    params, data = jax.tree.map(np.float64, (params, data))
    solution = pj.solve(ERROR, params, *data, algorithm=algorithm, steps=STEPS)
    state = algorithm.init(ERROR, params, *data)
    for found in solution.info.residual:
        old, state = contents(state), algorithm.step(ERROR, state)
        changes = np.concatenate([(b - a).ravel() for a, b in zip(old, contents(state), strict=True)])
        assert float(found) == pytest.approx(np.sqrt(np.mean(changes**2)), rel=1e-6)


def test_problems_do_not_share_compiled_code(params: Params, data: Any) -> None:
    """Same shapes and same algorithm: the problem alone makes the difference."""

    def problem(strength: float) -> Any:
        return pj.feasibility(lambda p, x, y: pj.squared_error(network(p, x), y, strength=strength))

    problems = [ERROR, problem(20.0)]
    for _ in range(2):
        found = [
            np.asarray(pj.solve(p, params, *data, algorithm=ALGORITHMS["ap"], steps=STEPS).params["w1"])
            for p in problems
        ]
        assert np.max(np.abs(found[0] - found[1])) > 1e-3


def test_algorithms_do_not_share_compiled_code(params: Params, data: Any) -> None:
    """Both move the last layer alike; what reaches the first layer is a step older in alternating projections."""
    found = {
        name: pj.solve(ERROR, params, *data, algorithm=algorithm, steps=STEPS).params
        for name, algorithm in ALGORITHMS.items()
    }
    np.testing.assert_allclose(found["ap"]["w1"], found["cp"]["w1"], rtol=1e-5, atol=1e-6)
    assert np.max(np.abs(found["ap"]["w0"] - found["cp"]["w0"])) > 1e-4


def test_the_function_is_traced_once_for_many_solves(params: Params, data: Any) -> None:
    calls = []

    def function(p: Params, x: Any, y: Any) -> Any:
        calls.append(1)
        return margin(p, x, y)

    problem = pj.feasibility(function)
    solution = pj.solve(problem, params, *data, algorithm=ALGORITHMS["ap"], steps=STEPS)
    traced = len(calls)
    for _ in range(3):
        solution = pj.solve(problem, solution.params, *data, algorithm=ALGORITHMS["ap"], steps=STEPS)
    assert len(calls) == traced
