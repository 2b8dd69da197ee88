"""Weights of layers of data, held in the span of the batch: the same as whole ones, untouched by an iteration."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

import pjax_core as pj
from pjax_core.copies import consensus

pytestmark = pytest.mark.usefixtures("float64")

Params = dict[str, Any]
BATCH, INPUTS, HIDDEN, CLASSES = 6, 20, 8, 3
ALGORITHMS = {
    "ap": pj.alternating_projections(),
    "cp": pj.cyclic_projections(),
}


def in_out(params: Params, x: Any, y: Any) -> Any:
    hidden = jax.nn.relu(x @ params["w0"] + params["b0"])
    return pj.squared_error(hidden @ params["w1"], y, strength=5.0)


def out_in(params: Params, x: Any, y: Any) -> Any:
    hidden = jax.nn.relu(x @ params["w0"].T + params["b0"])
    return pj.squared_error(hidden @ params["w1"], y, strength=5.0)


@pytest.fixture
def params(generator: np.random.Generator) -> Params:
    shapes = {"w0": (INPUTS, HIDDEN), "b0": (HIDDEN,), "w1": (HIDDEN, CLASSES)}
    return {name: 0.3 * generator.normal(size=shape) for name, shape in shapes.items()}


@pytest.fixture
def batches(generator: np.random.Generator) -> list[np.ndarray]:
    return [generator.normal(size=(BATCH, INPUTS)) for _ in range(2)]


@pytest.fixture
def y(generator: np.random.Generator) -> np.ndarray:
    return np.eye(CLASSES)[generator.integers(0, CLASSES, BATCH)]


def not_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consensus, "in_spans", lambda *_: {})


def runs(function: Callable[..., Any], algorithm: pj.Algorithm, params: Params, batches: Any, y: Any) -> list[Any]:
    """A run, one that goes on, one that does with other data, one that stops by itself, one from its parameters,
    and one that goes on from that with other data."""
    problem = pj.feasibility(lambda *arguments: function(*arguments))  # compiled anew
    solve = functools.partial(pj.solve, problem, algorithm=algorithm)
    first = solve(params, batches[0], y, steps=10)
    from_it = solve(first.params, batches[1], y, steps=5, params_low=first.params_low)
    return [
        first,
        from_it,
        solve(params, batches[0], y, steps=5, state=first.state),
        solve(params, batches[1], y, steps=5, state=first.state),
        solve(params, batches[0], y, steps=60, until=pj.gap_below(0.3)),
        solve(params, batches[0], y, steps=5, state=from_it.state),
    ]


@pytest.mark.parametrize(("function", "algorithm"), [(in_out, ALGORITHMS["ap"]), (out_in, ALGORITHMS["cp"])])
def test_runs_are_those_of_whole_weights(
    algorithm: pj.Algorithm,
    function: Callable[..., Any],
    params: Params,
    batches: Any,
    y: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if function is out_in:
        params |= {"w0": params["w0"].T}
    found = runs(function, algorithm, params, batches, y)
    assert found[0].state.spans
    not_held(monkeypatch)
    expected = runs(function, algorithm, params, batches, y)
    assert not expected[0].state.spans
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(*(run.info.steps if run.info.steps is not None else 0 for run in (one, other)))
        kept = [(run.params, run.change, run.info.residual, run.info.gaps) for run in (one, other)]
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), *kept)


@pytest.mark.parametrize("algorithm", ALGORITHMS.values(), ids=ALGORITHMS)
def test_a_step_touches_no_array_as_long_as_the_input(
    algorithm: pj.Algorithm, params: Params, batches: Any, y: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def operations() -> list[str]:
        """Those that take or give such an array."""
        problem = pj.feasibility(lambda *arguments: in_out(*arguments))
        state = algorithm.init(problem, params, batches[0], y)
        program = jax.jit(functools.partial(algorithm.step, problem)).lower(state).as_text()
        of_inputs = re.compile(rf"tensor<(\d+x)*{INPUTS}x")
        return [line for line in program.splitlines() if "stablehlo." in line and of_inputs.search(line)]

    assert not operations()
    not_held(monkeypatch)
    assert operations()


@pytest.mark.parametrize(
    "case", ["long batch", "few outputs", "two readers", "in a set", "half precision", "inputs that move", "on a mesh"]
)
def test_where_weights_are_whole(case: str, params: Params, batches: Any, y: Any) -> None:
    function, x = in_out, batches[0]
    if case == "long batch":
        x, y = np.concatenate([x, x]), np.concatenate([y, y])
    elif case == "few outputs":
        x, y = np.concatenate([x, x])[:9], np.concatenate([y, y])[:9]
    elif case == "two readers":

        def function(params: Params, x: Any, y: Any) -> Any:
            return in_out(params, x, y), pj.squared_error(x @ params["w0"], jnp.zeros((BATCH, HIDDEN)))

    elif case == "in a set":

        def function(params: Params, x: Any, y: Any) -> Any:
            return in_out(params, x, y), pj.within(params["w0"], pj.Box(-1.0, 1.0))

    elif case == "half precision":
        params, x = jax.tree.map(jnp.bfloat16, (params, x))
    elif case == "inputs that move":
        params |= {"x": x}

        def function(params: Params, x: Any, y: Any) -> Any:
            return in_out(params, x + params["x"], y)

    elif case == "on a mesh":
        mesh = jax.make_mesh((1,), ("rows",), axis_types=(AxisType.Explicit,))
        x = jax.device_put(x, jax.NamedSharding(mesh, jax.P("rows")))
    assert not pj.alternating_projections().init(pj.feasibility(function), params, x, y).spans
