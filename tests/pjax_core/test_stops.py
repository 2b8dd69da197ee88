"""``stop_gradient`` and ``custom_vjp``: what directions ask past them, and what algorithms do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import pjax_core as pj

Function = Callable[[Any, Any], Any]


@jax.custom_vjp
def sign(x: Any) -> Any:
    return jnp.sign(x)


sign.defvjp(lambda x: (jnp.sign(x), x), lambda x, asked: (asked * (jnp.abs(x) < 1),))


@jax.custom_vjp
def rounded(x: Any) -> Any:
    return jnp.round(4 * x) / 4


rounded.defvjp(lambda x: (rounded(x), None), lambda _, asked: (asked,))


def straight_through(h: Any, value: Any) -> Any:
    return h + lax.stop_gradient(value - h)


def from_other_view(p: Any, x: Any) -> Any:
    """Away from a target that the same parameters make of the entries the other way round."""
    apply = lambda x: jnp.tanh(x @ p["w"]) @ p["v"]  # noqa: E731
    return apply(x) - jax.tree.map(lax.stop_gradient, apply(x[:, ::-1]))


def in_part(p: Any, x: Any) -> Any:
    h = jnp.tanh(x @ p["w"])
    return jnp.concatenate([lax.stop_gradient(h)[:, :4], h[:, 4:]], axis=1) @ p["v"]


def cut_short(p: Any, x: Any) -> Any:
    """A loop whose steps ask nothing of the states before them."""

    def step(state: Any, entry: Any) -> tuple[Any, Any]:
        new = jnp.tanh(entry[:, None] * p["w"][0] + lax.stop_gradient(state) @ p["u"])
        return new, new

    return lax.scan(step, jnp.zeros((len(x), 8), x.dtype), x.T)[1].mean(0) @ p["v"]


def nearest_entries(p: Any, x: Any) -> Any:
    """Rows replaced by the nearest of a codebook that stays."""
    h = x @ p["w"]
    distances = jnp.sum((h[:, None] - p["u"]) ** 2, axis=-1)
    return straight_through(h, p["u"][jnp.argmin(distances, axis=1)]) @ p["v"]


def written_softmax(h: Any) -> Any:
    exponentials = jnp.exp(h - lax.stop_gradient(jnp.max(h, axis=1, keepdims=True)))
    return exponentials / jnp.sum(exponentials, axis=1, keepdims=True)


FUNCTIONS: dict[str, Function] = {
    "own derivatives": lambda p, x: sign(rounded(x @ p["w"]) @ p["u"]) @ p["v"],
    "weights with own derivatives": lambda p, x: jnp.tanh(x @ rounded(p["w"])) @ p["v"],
    "straight through": lambda p, x: (lambda h: straight_through(h, jnp.sign(h)))(x @ p["w"]) @ p["v"],
    "beside the value": lambda p, x: (
        (lambda h: lax.stop_gradient(jnp.round(h)) + h - lax.stop_gradient(h))(x @ p["w"]) @ p["v"]
    ),
    "through tanh": lambda p, x: (lambda h: straight_through(jnp.tanh(h), jnp.sign(h)))(x @ p["w"]) @ p["v"],
    "past a stream": lambda p, x: (lambda h: h + straight_through(h, jnp.round(h)))(x @ p["w"]) @ p["v"],
    "weights": lambda p, x: jnp.tanh(x @ straight_through(p["w"], jnp.round(4 * p["w"]) / 4)) @ p["v"],
    "softmax": lambda p, x: 3 * written_softmax(3 * jnp.tanh(x @ p["w"])) @ p["v"],
    "normalised": lambda p, x: (
        (lambda h: h / lax.stop_gradient(jnp.sqrt(jnp.sum(h**2, 1, keepdims=True))))(x @ p["w"]) @ p["v"]
    ),
    "gate": lambda p, x: (lambda h: h * lax.stop_gradient(jax.nn.sigmoid(h)))(x @ p["w"]) @ p["v"],
    "all below": lambda p, x: lax.stop_gradient(jnp.tanh(x @ p["w"])) @ p["v"],
    "from other view": from_other_view,
    "in part": in_part,
    "cut short": cut_short,
    "nearest entries": nearest_entries,
}

WITH_U = frozenset({"own derivatives", "cut short", "nearest entries"})


@pytest.fixture
def arrays(generator: np.random.Generator) -> tuple[dict[str, Any], Any, Any]:
    normal = generator.normal
    params = {"w": 0.6 * normal(size=(6, 8)), "u": 0.4 * normal(size=(8, 8)), "v": 0.4 * normal(size=(8, 3))}
    return jax.tree.map(np.float32, (params, normal(size=(32, 6)), normal(size=(32, 3))))


def constraint(function: Function) -> Any:
    return lambda p, x, y: pj.squared_error(function(p, x), y)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_directions_stop_where_gradients_do(name: str, arrays: Any) -> None:
    params, x, y = arrays
    gradient = jax.grad(lambda p: jnp.mean((FUNCTIONS[name](p, x) - y) ** 2))(params)
    used = {key: params[key] for key in params if key != "u" or name in WITH_U}
    direction = pj.direction(pj.feasibility(constraint(FUNCTIONS[name])), used, x, y)
    for key, found in direction.items():
        size = np.linalg.norm(gradient[key])
        if size == 0:
            assert not np.any(found), key
        else:
            assert np.vdot(found, gradient[key]) > 0.95 * np.linalg.norm(found) * size > 0, key


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lambda h: straight_through(h, jnp.tanh(3 * h)), lambda h: jnp.tanh(3 * h)),
        (rounded, lambda h: jnp.round(4 * h) / 4),
        (lambda h: jnp.tanh(lax.stop_gradient(h)), jnp.tanh),
    ],
)
@pytest.mark.parametrize("algorithm", [pj.alternating_projections(), pj.difference_map()])
def test_algorithms_project_onto_the_function_itself(one: Any, other: Any, algorithm: Any, arrays: Any) -> None:
    params, x, y = arrays
    del params["u"]
    changes = [
        pj.solve(
            pj.feasibility(constraint(lambda p, x, f=function: f(x @ p["w"]) @ p["v"])),
            params,
            x,
            y,
            algorithm=algorithm,
            steps=3,
            tolerance=np.inf,
        ).change
        for function in (one, other)
    ]
    for key in params:
        assert np.any(changes[1]["v"])
        np.testing.assert_allclose(
            changes[0][key], changes[1][key], rtol=1e-3, atol=1e-3 * np.abs(changes[1][key]).max()
        )


def test_a_function_with_a_stop_inside_is_one_constraint_still() -> None:
    problem = pj.feasibility(constraint(lambda p, x: written_softmax(x @ p["w"])))
    graph = problem.graph(
        {"w": np.ones((6, 8), np.float32)}, (np.ones((4, 6), np.float32), np.ones((4, 8), np.float32))
    )
    assert [node.name for node in graph.nodes if node.name.startswith("block")]
    assert "maximum" not in [node.name for node in graph.nodes]


def test_stops_of_jax_itself_are_none() -> None:
    """Those that only keep exponentials finite leave a graph as it is."""
    problem = pj.feasibility(lambda p, x, y: pj.squared_error(jax.nn.softmax(x @ p["w"]), y))
    params, x = {"w": np.ones((6, 8), np.float32)}, np.ones((4, 6), np.float32)
    graph = problem.graph(params, (x, np.ones((4, 8), np.float32)))
    slots = [slot for node in graph.nodes for slot in getattr(node, "slots", ())]
    assert slots
    assert "stop_gradient" not in {step.name for slot in slots for step in slot.steps}
