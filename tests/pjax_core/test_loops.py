"""Loops with any step, all of whose time steps are projected at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import pjax_core as pj
from pjax_core.graph.graph import Graph
from pjax_core.graph.loops import members
from pjax_core.graph.nodes import Node, sources_of

pytestmark = [pytest.mark.usefixtures("float64"), pytest.mark.filterwarnings("error::UserWarning")]

STEPS, BATCH, INPUTS, WIDTH, CLASSES = 5, 16, 4, 6, 3
rng = np.random.default_rng(0)
X, Y = rng.normal(size=(STEPS, BATCH, INPUTS)), rng.integers(CLASSES, size=BATCH)


def weights(*shape: int) -> np.ndarray:
    return rng.normal(size=shape) / np.sqrt(shape[0] if len(shape) == 2 else shape[-2] if len(shape) == 3 else 4)


def cross_entropy(logits: Any, labels: Any) -> Any:
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1))


def nothing(x: Any) -> Any:
    return jnp.zeros((x.shape[1], WIDTH), x.dtype)


def gated(p: Any, x: Any) -> Any:
    """Backwards, from a state that is learned, and its gates are read too."""

    def step(h: Any, rows: Any) -> Any:
        both = jnp.concatenate([rows, h], 1)
        gate = jax.nn.sigmoid(both @ p["g"])
        h = gate * h + (1 - gate) * jnp.tanh(both @ p["w"] + p["b"])
        return h, (h, gate)

    h, (states, gates) = lax.scan(step, jnp.broadcast_to(jnp.tanh(p["h0"]), (x.shape[1], WIDTH)), x, reverse=True)
    return h + states.mean(0) * gates[1]


def fori(p: Any, x: Any) -> Any:
    """It counts, and picks what it reads by that."""

    x = jnp.asarray(x)

    def step(i: Any, h: Any) -> Any:
        return 0.5 * h + (1.0 + i) * jnp.tanh(jnp.concatenate([x[i], h], 1) @ p["w"] + p["b"])

    return lax.fori_loop(0, x.shape[0], step, nothing(x))


def layers(p: Any, x: Any) -> Any:
    """Its sequences are parameters."""
    return lax.scan(lambda h, own: (h + jnp.tanh(h @ own[0] + own[1]), None), x[0] @ p["i"], (p["ws"], p["bs"]))[0]


def states_of_all_kinds(p: Any, x: Any) -> Any:
    """One that only later steps read, one that is the step before, one of inputs alone, one twice."""

    def step(carry: Any, rows: Any) -> Any:
        h, fed_back, before, of_inputs, _ = carry
        new = jnp.tanh(jnp.concatenate([rows, h], 1) @ p["w"] + p["b"] + fed_back + 0.5 * before + of_inputs)
        return (new, 0.5 * fed_back + h * p["g"][0], h, rows @ p["v"], new), None

    (h, _, before, _, again), _ = lax.scan(step, (nothing(x),) * 5, x)
    return h + before + 0.5 * again


def loop_in_loop(p: Any, x: Any) -> Any:
    def step(h: Any, rows: Any) -> Any:
        def again(g: Any, _: None) -> Any:
            return 0.3 * g + 0.7 * jnp.tanh(jnp.concatenate([rows, g], 1) @ p["w"] + p["b"]), None

        return 0.5 * h + 0.5 * lax.scan(again, h, None, length=2)[0], None

    h, states = lax.scan(lambda h, rows: 2 * (step(h, rows)[0],), nothing(x), x[:3])
    return h + states[0]


CELL = {"w": (INPUTS + WIDTH, WIDTH), "b": (WIDTH,)}
LOOPS: dict[str, tuple[Callable[[Any, Any], Any], dict[str, tuple[int, ...]], float]] = {
    "gated": (gated, {**CELL, "g": (INPUTS + WIDTH, WIDTH), "h0": (WIDTH,)}, 0.98),
    "fori": (fori, CELL, 0.99),
    "layers": (layers, {"i": (INPUTS, WIDTH), "ws": (STEPS, WIDTH, WIDTH), "bs": (STEPS, WIDTH)}, 0.99),
    "states": (states_of_all_kinds, {**CELL, "g": (1, WIDTH), "v": (INPUTS, WIDTH)}, 0.95),
    "loop in loop": (loop_in_loop, CELL, 0.95),
}
"""With the shapes of parameters, and the least cosine of small directions with the gradient."""


def network(name: str) -> tuple[Callable[..., Any], dict[str, Any]]:
    """A function of parameters, data and a loss, and its parameters."""
    hidden, shapes, _ = LOOPS[name]
    params = {key: weights(*shape) for key, shape in shapes.items()} | {"out": weights(WIDTH, CLASSES)}
    return lambda p, x, y, loss: loss(hidden(p, x) @ p["out"], y), params


def problem_of(function: Callable[..., Any], strength: float = 1.0) -> pj.Problem:
    return pj.feasibility(
        lambda p, x, y: function(p, x, y, lambda logits, y: pj.cross_entropy(logits, y, strength=strength))
    )


@pytest.mark.parametrize("name", LOOPS)
def test_directions_go_back_through_all_steps(name: str, relative_error: Any) -> None:
    """As gradients do, where the pull is small: products of parts of several steps would leave but the last."""
    function, params = network(name)
    value, direction = pj.value_and_direction(problem_of(function, 1e-9), params, X, Y)
    expected, gradient = jax.value_and_grad(lambda p: function(p, X, Y, cross_entropy))(params)
    np.testing.assert_allclose(value, expected, rtol=1e-12)
    for key in params:
        cosine = np.vdot(direction[key], gradient[key]) / np.linalg.norm(direction[key]) / np.linalg.norm(gradient[key])
        assert cosine > LOOPS[name][2], (key, cosine)


@pytest.mark.parametrize("name", LOOPS)
def test_a_loop_is_one_graph_for_any_number_of_steps(name: str) -> None:
    """Whose nodes stand together, each after its sources."""
    function, params = network(name)
    if name == "layers":
        shorter = params | {"ws": params["ws"][:3], "bs": params["bs"][:3]}
        graphs = [problem_of(function).graph(p, (X, Y)) for p in (params, shorter)]
    else:
        graphs = [problem_of(function).graph(params, (X[:steps], Y)) for steps in (5, 4)]
    assert len({len(graph.nodes) for graph in graphs}) == 1
    (graph, _), places = graphs, {node: place for place, node in enumerate(graphs[0].nodes)}
    for node in graph.nodes:
        later = {state for loop in graph.loops if node in loop.before for state in loop.after}
        assert all(source in later or places.get(source, -1) < places[node] for source in sources_of(node))
    for loop in graph.loops:
        inside = members(list(everything(graph)), loop)
        last = max(places[node] for node in inside)
        outside = [node for node in graph.nodes if node not in inside and not inside.isdisjoint(sources_of(node))]
        assert outside
        assert all(places[node] > last for node in outside)
    assert len(graph.loops) == (2 if name == "loop in loop" else 1)


def everything(graph: Graph) -> dict[Node, None]:
    """The nodes of a graph and what is fixed."""
    return dict.fromkeys([*graph.nodes, *(source for node in graph.nodes for source in sources_of(node))])


def test_a_gated_loop_learns() -> None:
    function, params = network("gated")
    problem = problem_of(function)
    value_and_direction = jax.jit(lambda p: pj.value_and_direction(problem, p, X, Y))
    start, direction = value_and_direction(params)
    for _ in range(100):
        params = jax.tree.map(lambda param, change: param - np.asarray(change), params, direction)
        value, direction = value_and_direction(params)
    assert value < 0.3 * start


def test_directions_of_values_in_half_precision() -> None:
    """Those of float64, up to the rounding of values."""
    function, params = network("gated")
    halves, x = jax.tree.map(lambda array: jnp.asarray(array, jnp.bfloat16), (params, X))
    found = pj.direction(problem_of(function), halves, x, Y)
    expected = pj.direction(problem_of(function), params, X, Y)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert one.dtype == jnp.float32
        assert np.vdot(one, other) > 0.99 * np.linalg.norm(one) * np.linalg.norm(other)


def stepwise(p: Any, x: Any, y: Any, loss: Any) -> Any:
    """A prediction in each step, and what is said of it there."""

    def step(h: Any, rows: Any) -> Any:
        h = jnp.tanh(rows @ p["i"] + h * p["g"])
        return h, loss(h @ p["out"], y)

    return lax.scan(step, nothing(x), x)[1].mean()


STEPWISE = {"i": weights(INPUTS, WIDTH), "g": weights(WIDTH), "out": weights(WIDTH, CLASSES)}


def test_output_constraints_in_a_step() -> None:
    """As many as there are steps, of which the mean is taken."""

    def after_all(p: Any, x: Any, y: Any, loss: Any) -> Any:
        states = lax.scan(lambda h, rows: 2 * (jnp.tanh(rows @ p["i"] + h * p["g"]),), nothing(x), x)[1]
        return loss((states @ p["out"]).reshape(-1, CLASSES), jnp.tile(y, STEPS))

    value, direction = pj.value_and_direction(problem_of(stepwise, 1e-9), STEPWISE, X, Y)
    expected, wanted = pj.value_and_direction(problem_of(after_all, 1e-9), STEPWISE, X, Y)
    np.testing.assert_allclose(value, expected, rtol=1e-12)
    for key in STEPWISE:
        assert np.vdot(direction[key], wanted[key]) > 0.99 * np.linalg.norm(direction[key]) * np.linalg.norm(
            wanted[key]
        )


@pytest.mark.filterwarnings("default::UserWarning")
def test_loops_that_carry_output_constraints_are_unrolled() -> None:
    """And said to be, with the user's line."""

    def function(p: Any, x: Any, y: Any) -> Any:
        def step(carry: Any, rows: Any) -> Any:
            h = jnp.tanh(rows @ p["i"] + carry[0] * p["g"])
            return (h, carry[1] + pj.cross_entropy(h @ p["out"], y)), None

        return lax.scan(step, (nothing(x), 0.0), x)[0][1]

    with pytest.warns(UserWarning, match="test_loops.py, line .*lax.scan.* unrolled into 5 steps") as caught:
        pj.value_and_direction(pj.feasibility(function), STEPWISE, X, Y)
    print(caught[0].message)


@pytest.mark.parametrize("kind", ["output", "state"])
def test_what_nothing_reads_of_a_loop_is_left_out(kind: str) -> None:
    """A parameter that nothing else uses is named; others learn as without it."""

    def function(p: Any, x: Any, y: Any) -> Any:
        def step(carry: Any, rows: Any) -> Any:
            h, other = carry
            new = jnp.tanh(rows @ p["i"] + h * p["g"])
            if kind == "output":
                return (new, other), jnp.argmax(h @ p["unused"], 1)
            return (new, jnp.tanh(other @ p["unused"] + h)), None

        return pj.cross_entropy(lax.scan(step, (nothing(x), nothing(x)), x)[0][0] @ p["out"], y)

    with pytest.raises(ValueError, match=r"parameter params\['unused'\] is never used"):
        pj.direction(pj.feasibility(function), {**STEPWISE, "unused": weights(WIDTH, WIDTH)}, X, Y)

    def with_constant(p: Any, x: Any, y: Any) -> Any:
        return function({**p, "unused": np.eye(WIDTH)}, x, y)

    problem = pj.feasibility(with_constant)
    assert all(np.isfinite(array).all() for array in pj.direction(problem, STEPWISE, X, Y).values())
    pj.solve(problem, STEPWISE, X, Y, algorithm=pj.alternating_projections(), steps=1)


def normalised_blocks(params: Any, x: Any, scanned: bool) -> Any:
    """Residual blocks on a stream that grows with them: what a normalisation hands on differs by block."""

    def block(h: Any, p: Any) -> tuple[Any, None]:
        normalised = h * lax.rsqrt(jnp.mean(h**2, -1, keepdims=True) + 1e-6)
        return h + jnp.tanh(2 * normalised @ p["keys"]) @ p["values"], None

    h = 0.02 * x @ params["embedding"]
    blocks = {name: params[name] for name in ("keys", "values")}
    if scanned:
        h, _ = lax.scan(block, h, blocks)
    else:
        for k in range(4):
            h, _ = block(h, jax.tree.map(lambda array: array[k], blocks))  # noqa: B023
    return h @ params["readout"]


@pytest.fixture
def of_blocks(generator: np.random.Generator) -> tuple[Any, Any, Any]:
    shapes = {"embedding": (6, 8), "keys": (4, 8, 8), "values": (4, 8, 8), "readout": (8, 3)}
    params = {name: np.float32(0.4 * generator.normal(size=shape)) for name, shape in shapes.items()}
    params["values"] *= np.float32(0.05 * 4.0 ** np.arange(4))[:, None, None]
    return params, np.float32(generator.normal(size=(32, 6))), np.float32(generator.normal(size=(32, 3)))


def direction_of_blocks(arrays: Any, dot_products: Any, scanned: bool) -> Any:
    problem = pj.feasibility(
        lambda p, x, y: pj.squared_error(normalised_blocks(p, x, scanned), y), dot_products=dot_products
    )
    return pj.direction(problem, *arrays)


def test_each_step_hands_on_what_it_is_asked_by_its_own_part(of_blocks: Any) -> None:
    """Not by that of the last step, which normalises a larger stream."""
    params, x, y = of_blocks
    gradient = jax.grad(lambda p: jnp.mean((normalised_blocks(p, x, scanned=True) - y) ** 2))(params)
    found = direction_of_blocks(of_blocks, "each", scanned=True)
    for name, change in found.items():
        steps = (change, gradient[name]) if change.ndim == 3 else (change[None], gradient[name][None])
        for one, other in zip(*steps, strict=True):
            sizes = np.linalg.norm(one), np.linalg.norm(other)
            assert np.vdot(one, other) > 0.9 * sizes[0] * sizes[1], name
            assert 0.2 < sizes[0] / sizes[1] < 2.5, name


@pytest.mark.parametrize("layer", ["layer", pj.Layer("apart")])
def test_whole_layers_in_a_loop_are_those_out_of_it(layer: Any, of_blocks: Any, relative_error: Any) -> None:
    alone, scanned = (direction_of_blocks(of_blocks, layer, scanned) for scanned in (False, True))
    for name, change in alone.items():
        assert relative_error(scanned[name], change) < 1e-3, name


@pytest.mark.parametrize("layer", ["layer", pj.Layer("coupled")])
@pytest.mark.parametrize(
    "equation", ["gbi,gio->gbo", "bgi,igo->bgo", "hgbi,ghio->gbho", "gbi,goi->gbo", "bgi,ogi->gbo"]
)
def test_stacked_layers_are_projected_one_by_one(
    equation: str, layer: Any, generator: np.random.Generator, relative_error: Any
) -> None:
    left, right, output = equation.replace("->", ",").split(",")
    sizes = {"g": 3, "h": 2, "b": 5, "i": 4, "o": 6}
    x, w, y = (
        np.float32(generator.normal(size=[sizes[label] for label in labels])) for labels in (left, right, output)
    )
    blocks = [label for label in "gh" if label in right]

    def by_blocks(array: Any, labels: str) -> Any:
        own = "".join(label for label in "bio" if label in labels)
        ordered = jnp.einsum(f"{labels}->{''.join(blocks)}{own}", array)
        return ordered.reshape(-1, *ordered.shape[len(blocks) :])

    def stacked(w: Any, x: Any, y: Any) -> Any:
        return pj.squared_error(jnp.einsum(equation, x, w), y)

    def apart(w: Any, x: Any, y: Any) -> Any:
        products = jnp.stack([one @ weights for one, weights in zip(by_blocks(x, left), w, strict=True)])
        return pj.squared_error(products, by_blocks(y, output))

    def change(function: Any, w: Any) -> Any:
        algorithm = pj.alternating_projections()
        problem = pj.feasibility(function, dot_products=layer)
        return pj.solve(problem, w, x, y, algorithm=algorithm, steps=2, tolerance=np.inf).change

    expected = jnp.stack(change(apart, list(by_blocks(w, right))))
    assert relative_error(by_blocks(change(stacked, w), right), expected) < 1e-4
