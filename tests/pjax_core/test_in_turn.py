"""Layers in turn: less memory, the same result (see also test_explicit_copies.py and test_half_precision.py)."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pjax_core as pj
from pjax_core.algorithms.base import consensus_algorithm
from pjax_core.graph.graph import Graph

from ..pjax_kernels.code_generation import AS_FOR_USERS

IN_TURN, SIDE_BY_SIDE = pj.alternating_projections(in_turn=True), pj.alternating_projections()
RATE = 0.01
SIZES, BATCH = (784, 256, 256, 10), 256

Params = list[tuple[Any, Any]]


def network(params: Params, x: Any) -> Any:
    for w, b in params[:-1]:
        x = pj.sum_relu(pj.matmul(x, w), b)
    return pj.matmul(x, params[-1][0])


@pj.feasibility
def problem(params: Params, x: Any, y: Any) -> Any:
    return pj.margin_loss(network(params, x), y)


@pytest.fixture
def arguments(generator: np.random.Generator, one_hot: Any) -> tuple[Params, Any, Any]:
    params = [
        (
            jnp.float32(generator.normal(size=(inner, outer)) * np.sqrt(2 / inner)),
            *([] if outer == SIZES[-1] else [jnp.float32(generator.normal(size=outer) * 0.1)]),
        )
        for inner, outer in zip(SIZES[:-1], SIZES[1:], strict=True)
    ]
    return params, jnp.float32(generator.uniform(size=(BATCH, SIZES[0]))), jnp.float32(one_hot(BATCH, SIZES[-1]))


def bytes_of(step: Any, state: Any) -> int:
    used = jax.jit(step, donate_argnums=0).lower(state).compile(dict(AS_FOR_USERS)).memory_analysis()
    return used.argument_size_in_bytes + used.output_size_in_bytes + used.temp_size_in_bytes - used.alias_size_in_bytes


def test_a_step_holds_at_most_twice_what_one_of_sgd_does(arguments: Any) -> None:
    """Values at the start, and changes since."""

    def loss(params: Params, x: Any, y: Any) -> Any:
        return -jnp.mean(jnp.sum(y * jax.nn.log_softmax(network(params, x)), axis=1))

    def descend(state: Any) -> Any:
        params, x, y = state
        return jax.tree.map(lambda p, g: p - RATE * g, params, jax.grad(loss)(params, x, y)), x, y

    sgd = bytes_of(descend, arguments)
    in_turn, side_by_side = (
        bytes_of(lambda state, algorithm=algorithm: algorithm.step(problem, state), algorithm.init(problem, *arguments))
        for algorithm in (IN_TURN, SIDE_BY_SIDE)
    )
    assert in_turn <= 2 * sgd
    assert in_turn < side_by_side


CYCLIC = consensus_algorithm(Graph.layers, started=False, large=1)


@pytest.mark.parametrize("algorithm", [IN_TURN, CYCLIC], ids=["AP", "CP"])
def test_of_a_large_layer_a_step_holds_little_beyond_its_state(
    algorithm: pj.Algorithm, generator: Any, one_hot: Any
) -> None:
    """The next layer's intermediate results are in the memory of the last one's."""
    width = 64
    array = 4 * width**2

    def bytes_and_state(layers: int) -> np.ndarray:
        params = [jnp.float32(generator.normal(size=(width, width))) for _ in range(layers)]
        params = [(w, jnp.zeros(width, jnp.float32)) for w in params[1:]] + [(params[0],)]
        x, y = jnp.float32(generator.uniform(size=(width, width))), jnp.float32(one_hot(width, width))
        state = algorithm.init(problem, params, x, y)
        held = sum(array.nbytes for array in jax.tree.leaves(state))
        return np.array([bytes_of(lambda state: algorithm.step(problem, state), state), held])

    all_bytes, in_state = bytes_and_state(5) - bytes_and_state(3)
    assert all_bytes < in_state + 2 * array


def test_elsewhere_nothing_changes(arguments: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    small = jax.tree.map(lambda array: array[: SIZES[1], : SIZES[1]] if array.ndim == 2 else array, arguments)
    state = SIDE_BY_SIDE.init(problem, *small)
    programs = [
        str(jax.make_jaxpr(lambda state, algorithm=algorithm: algorithm.step(problem, state))(state))
        for algorithm in (IN_TURN, SIDE_BY_SIDE)
    ]
    assert programs[0] == programs[1]


def test_not_a_number_is_waited_for_as_numbers_are(arguments: Any) -> None:
    """That is no comparison that fails for it."""
    params, x, y = arguments
    first = IN_TURN.init(problem, params, x[:8], y[:8])
    starts = {i: start.at[0, 0].set(jnp.nan) for i, start in first.starts.items()}
    first = dataclasses.replace(first, starts=starts)
    found, expected = (jax.tree.leaves(algorithm.step(problem, first)) for algorithm in (IN_TURN, SIDE_BY_SIDE))
    for arrays in zip(found, expected, strict=True):
        np.testing.assert_allclose(*arrays, rtol=1e-6, atol=1e-12)
    assert any(np.isnan(array).any() and np.isfinite(array).any() for array in found)


@pytest.mark.parametrize("wrong", [1, None, "yes"])
def test_in_turn_is_true_or_false(wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"in_turn is .*; pass True for less memory, or False for less time"):
        pj.alternating_projections(in_turn=wrong)
