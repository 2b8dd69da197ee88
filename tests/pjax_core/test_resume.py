"""Runs that go on from a state, bit for bit, also as users compile them."""

from __future__ import annotations

import functools
import pickle
from typing import Any

import jax
import numpy as np
import pytest
from jax import lax

import pjax_core as pj

from ..pjax_kernels.code_generation import AS_FOR_USERS

AP, DR = pj.alternating_projections(), pj.douglas_rachford()


def margin(params: Any, x: Any, y: Any) -> Any:
    return pj.margin_loss(jax.nn.relu(x @ params["w0"] + params["b0"]) @ params["w1"], y)


PROBLEM = pj.feasibility(margin)
solve = functools.partial(pj.solve, PROBLEM, tolerance=np.inf)
solve_as_for_users = jax.jit(solve, static_argnames=("algorithm", "steps", "until"), compiler_options=AS_FOR_USERS)


@pytest.fixture
def params(generator: np.random.Generator) -> dict[str, Any]:
    shapes = {"w0": (6, 16), "b0": (16,), "w1": (16, 3)}
    return {name: np.float32(0.4 * generator.normal(size=shape)) for name, shape in shapes.items()}


@pytest.fixture
def data(generator: np.random.Generator, one_hot: Any) -> tuple[np.ndarray, np.ndarray]:
    return np.float32(generator.normal(size=(8, 6))), np.float32(one_hot(8, 3))


def assert_same(found: Any, expected: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize("algorithm", [AP, DR], ids=["AP", "DR"])
def test_without_a_condition_nothing_is_added(algorithm: pj.Algorithm, params: Any, data: Any) -> None:
    """The program is a scan of the algorithm's steps, bit for bit."""

    def step(state: Any, _: None) -> tuple[Any, Any]:
        return algorithm.step(PROBLEM, state), None

    @jax.jit
    def run(params: Any, x: Any, y: Any) -> Any:
        return lax.scan(step, algorithm.init(PROBLEM, params, x, y), length=30)[0]

    assert_same(solve(params, *data, algorithm=algorithm, steps=30).state, run(params, *data))


@pytest.mark.parametrize(
    ("solve", "algorithm", "until"),
    [
        (solve_as_for_users, AP, None),
        (solve_as_for_users, DR, pj.gap_below(1e-9)),
        (solve, pj.douglas_rachford(0.4, copies=pj.Factored()), None),
        (solve, pj.reflect_reflect_relax(0.4, gamma=0.1), pj.gap_below(1e-9)),
    ],
    ids=["AP", "DR until", "DR factored", "RRR with a metric"],
)
def test_goes_on_bit_for_bit(solve: Any, algorithm: pj.Algorithm, until: Any, params: Any, data: Any) -> None:
    run = functools.partial(solve, params, *data, algorithm=algorithm, until=until)
    whole, half = run(steps=14), run(steps=7)
    rest = run(steps=7, state=pickle.loads(pickle.dumps(half.state)))
    for name in ("params", "params_low", "change", "state"):
        assert_same(getattr(rest, name), getattr(whole, name))
    np.testing.assert_array_equal(np.concatenate([half.info.residual, rest.info.residual]), whole.info.residual)
    if until:
        assert_same(rest.info.gaps, whole.info.gaps)


def test_goes_on_with_other_data(params: Any, data: Any) -> None:
    x, y = data
    half = solve(params, x, y, algorithm=DR, steps=7)
    found = solve(params, 2 * x, y, algorithm=DR, steps=7, state=half.state)
    np.testing.assert_array_equal(found.state.data[0], 2 * x)
    same = solve(params, x, y, algorithm=DR, steps=7, state=half.state)
    assert np.max(np.abs(found.params["w0"] - same.params["w0"])) > 1e-3


@pytest.mark.parametrize("algorithm", [AP, DR], ids=["AP", "DR"])
def test_other_data_leave_the_point_where_it_is(algorithm: pj.Algorithm, params: Any, data: Any, float64: None) -> None:
    """The state holds changes since what the network computed from the data before."""
    x, y = data
    params, x, y = jax.tree.map(np.float64, (params, x, y))
    steps = [solve(params, x, y, algorithm=algorithm, steps=5)]
    others = [np.flip(x, 0), x + 0.1]
    for other in others:
        steps.append(solve(params, other, y, algorithm=algorithm, steps=0, state=steps[-1].state))
    back = solve(params, x, y, algorithm=algorithm, steps=4, state=steps[-1].state)
    straight = solve(params, x, y, algorithm=algorithm, steps=4, state=steps[0].state)
    for found, expected in zip(jax.tree.leaves(back.params), jax.tree.leaves(straight.params), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-13)
