"""Tracing, the two-colouring with its inserted identities, and layers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pjax_core as pj
from pjax_core.graph.graph import Colour, Graph
from pjax_core.graph.nodes import Constant, Data, Operation, Parameter
from pjax_core.trace.jaxpr import trace


def shapes(tree: Any) -> Any:
    """Shapes in the place of arrays, from a tree of tuples."""
    return jax.tree.map(
        lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32), tree, is_leaf=lambda t: isinstance(t, tuple)
    )


def graph_of(function: Callable[..., Any], params: Any, *data: Any) -> Graph:
    return trace(function, shapes(params), tuple(shapes(array) for array in data))


def edges(graph: Graph) -> list[tuple[Any, Operation]]:
    return [
        (source, node)
        for node in graph.nodes
        if isinstance(node, Operation)
        for slot in node.slots
        for source in slot.sources
    ]


def moving_edges(graph: Graph) -> list[tuple[Any, Operation]]:
    """The edges whose source is projected; data and constants never move."""
    return [(source, node) for source, node in edges(graph) if not isinstance(source, (Data, Constant))]


def identities(graph: Graph) -> list[str]:
    return [node.name for node in graph.nodes if node.name.startswith("identity(")]


def description(graph: Graph) -> list[Any]:
    """All that a graph consists of, by the places of its nodes."""
    place = {node: i for i, node in enumerate(graph.nodes)}
    return [
        (
            node.name,
            node.shape,
            graph.colours[node],
            graph.depth[node],
            [place[consumer] for consumer in graph.consumers[node]],
        )
        for node in graph.nodes
    ]


def mlp(p: Any, x: Any, y: Any) -> Any:
    h = pj.sum_relu(pj.matmul(x, p["w0"]), p["b0"])
    h = pj.sum_relu(pj.matmul(h, p["w1"]), p["b1"])
    return pj.cross_entropy(pj.matmul(h, p["w2"]), y)


MLP_SHAPES = {"w0": (7, 6), "b0": (6,), "w1": (6, 5), "b1": (5,), "w2": (5, 3)}


def product_chain(p: Any, x: Any, y: Any) -> Any:
    return pj.margin_loss(pj.matmul(pj.matmul(x, p["w0"]), p["w1"]), y)


def separate_bias(p: Any, x: Any, y: Any) -> Any:
    return pj.margin_loss(pj.relu(pj.add(pj.matmul(x, p["w"]), p["b"])), y)


def repeated_relu(p: Any, x: Any, y: Any) -> Any:
    return pj.margin_loss(pj.relu(pj.relu(pj.relu(pj.matmul(x, p["w"])))), y)


def skip(p: Any, x: Any, y: Any) -> Any:
    h = pj.sum_relu(pj.matmul(x, p["w0"]), p["b0"])
    h = pj.sum_relu(pj.matmul(h, p["w1"]), h)
    return pj.margin_loss(pj.matmul(h, p["w2"]), y)


def skip_over_two_operations(p: Any, x: Any, y: Any) -> Any:
    h = pj.sum_relu(pj.matmul(x, p["w0"]), p["b0"])
    h = pj.sum_relu(pj.relu(pj.matmul(h, p["w1"])), h)
    return pj.margin_loss(pj.matmul(h, p["w2"]), y)


def bias_in_both_colours(p: Any, x: Any, y: Any) -> Any:
    h = pj.sum_relu(pj.matmul(x, p["w"]), p["b"])
    return pj.margin_loss(pj.sum_relu(h, p["b"]), y)


def weight_in_both_colours(p: Any, x: Any, y: Any) -> Any:
    return pj.margin_loss(pj.matmul(pj.matmul(pj.matmul(x, p["w"]), p["w"]), p["w"]), y)


def data_in_both_colours(p: Any, x: Any, y: Any) -> Any:
    return pj.margin_loss(pj.add(pj.matmul(x, p["w"]), x), y)


NETWORKS: dict[str, tuple[Callable[..., Any], Any, tuple[int, ...], tuple[int, ...], list[str]]] = {
    "mlp": (mlp, MLP_SHAPES, (8, 7), (8, 3), []),
    "product chain": (product_chain, {"w0": (4, 5), "w1": (5, 3)}, (8, 4), (8, 3), []),
    "separate bias": (separate_bias, {"w": (4, 3), "b": (3,)}, (8, 4), (8, 3), []),
    "repeated relu": (repeated_relu, {"w": (4, 3)}, (8, 4), (8, 3), []),
    "skip": (
        skip,
        {"w0": (4, 5), "b0": (5,), "w1": (5, 5), "w2": (5, 3)},
        (8, 4),
        (8, 3),
        ["identity(sum_relu)"],
    ),
    "skip over two operations": (
        skip_over_two_operations,
        {"w0": (4, 5), "b0": (5,), "w1": (5, 5), "w2": (5, 3)},
        (8, 4),
        (8, 3),
        [],
    ),
    "bias in both colours": (
        bias_in_both_colours,
        {"w": (4, 3), "b": (3,)},
        (8, 4),
        (8, 3),
        ["identity(params['b'])"],
    ),
    "weight in both colours": (weight_in_both_colours, {"w": (4, 4)}, (8, 4), (8, 4), ["identity(params['w'])"]),
    "data in both colours": (data_in_both_colours, {"w": (4, 4)}, (8, 4), (8, 4), []),
}


@pytest.fixture(params=NETWORKS)
def network(request: pytest.FixtureRequest) -> tuple[Graph, list[str]]:
    function, params, x, y, expected = NETWORKS[request.param]
    return graph_of(function, params, x, y), expected


def random_network(generator: np.random.Generator) -> Callable[..., Any]:
    """Random sums, rectified sums, products and views of what came before, all of it used in the end."""
    choices = [
        [str(generator.choice(["add", "sum_relu", "relu", "matmul", "concatenate"])), *generator.random(3)]
        for _ in range(int(generator.integers(4, 16)))
    ]

    def function(params: Any, x: Any, y: Any) -> Any:
        values = [*params, x]
        unused = list(params)
        for name, *where in choices:
            first, second, third = (values[int(w * len(values))] for w in where)
            if name == "concatenate":
                rows = pj.concatenate([first[:2], second[1:3]])
                new = pj.add(rows, third)
                unused = [value for value in unused if value is not third]
            elif name == "relu":
                new = pj.relu(first)
            elif name == "matmul":
                new = pj.matmul(first, second)
            else:
                new = getattr(pj, name)(first, second, third)
            values.append(new)
            unused.append(new)
        return pj.margin_loss(pj.add(*unused), y)

    return function


RANDOM_SEEDS = range(40)


@pytest.fixture(params=RANDOM_SEEDS)
def random_graph(request: pytest.FixtureRequest) -> Graph:
    function = random_network(np.random.default_rng(request.param))
    return graph_of(function, [(4, 4), (4, 4), (4, 4)], (4, 4), (4, 4))


def require_bipartite(graph: Graph) -> None:
    for source, consumer in moving_edges(graph):
        assert graph.colours[source] is graph.colours[consumer].opposite, (source.name, consumer.name)
    for node in graph.nodes:
        if isinstance(node, Operation) and node.primitive.constrains_output:
            assert graph.colours[node] is Colour.A
    coloured = Counter(graph.coloured(Colour.A)) + Counter(graph.coloured(Colour.B))
    assert coloured == Counter(graph.nodes)


def require_needed_identities(graph: Graph) -> None:
    """Each identity stands between a node and all its consumers that would have its colour, one for each node."""
    inserted = [node for node in graph.nodes if node.name.startswith("identity(")]
    sources = [slot.sources for node in inserted for slot in node.slots]
    assert all(len(of) == 1 for of in sources)
    assert len({of[0] for of in sources}) == len(inserted)
    for node, (source,) in zip(inserted, sources, strict=True):
        assert node.name == f"identity({source.name})"
        assert node.shape == source.shape
        assert graph.consumers[node]
        assert all(graph.colours[consumer] is graph.colours[source] for consumer in graph.consumers[node])


def require_layers(graph: Graph) -> None:
    layers = graph.layers()
    assert Counter(node for layer in layers for node in layer) == Counter(graph.nodes)
    number = {node: i for i, layer in enumerate(layers) for node in layer}
    for node in graph.nodes:
        nearest = min((number[consumer] for consumer in graph.consumers[node]), default=-1)
        assert number[node] == nearest + 1
    for layer in layers:
        assert len({graph.colours[node] for node in layer}) == 1
    assert all(number[source] != number[consumer] for source, consumer in moving_edges(graph))


def require_order(graph: Graph) -> None:
    place = {node: i for i, node in enumerate(graph.nodes)}
    assert all(place[source] < place[consumer] for source, consumer in moving_edges(graph))
    held = {(source, consumer) for source, consumer in edges(graph)}
    listed = {(source, consumer) for source, users in graph.consumers.items() for consumer in users}
    assert held == listed


def test_graphs_are_well_formed(network: tuple[Graph, list[str]]) -> None:
    graph, expected = network
    require_bipartite(graph)
    require_needed_identities(graph)
    require_layers(graph)
    require_order(graph)
    assert identities(graph) == expected


def test_random_graphs_are_well_formed(random_graph: Graph) -> None:
    require_bipartite(random_graph)
    require_needed_identities(random_graph)
    require_layers(random_graph)
    require_order(random_graph)


def test_random_graphs_need_identities() -> None:
    """The random graphs of the test above have something to repair."""
    for seed in RANDOM_SEEDS:
        function = random_network(np.random.default_rng(seed))
        assert identities(graph_of(function, [(4, 4), (4, 4), (4, 4)], (4, 4), (4, 4)))


def test_colours_of_an_mlp() -> None:
    graph = graph_of(mlp, MLP_SHAPES, (8, 7), (8, 3))
    names = {colour: {node.name for node in graph.coloured(colour)} for colour in Colour}
    assert names == {
        Colour.A: {"cross_entropy", "sum_relu", "params['w0']", "params['w1']", "params['w2']"},
        Colour.B: {"matmul", "params['b0']", "params['b1']"},
    }
    assert [sorted(node.name for node in layer) for layer in graph.layers()] == [
        ["cross_entropy"],
        ["matmul"],
        ["params['w2']", "sum_relu"],
        ["matmul", "params['b1']"],
        ["params['w1']", "sum_relu"],
        ["matmul", "params['b0']"],
        ["params['w0']"],
    ]


def test_tracing_is_deterministic() -> None:
    for seed in RANDOM_SEEDS:
        function = random_network(np.random.default_rng(seed))
        first, again = (description(graph_of(function, [(4, 4), (4, 4), (4, 4)], (4, 4), (4, 4))) for _ in range(2))
        assert first == again


def test_tracing_needs_shapes_only() -> None:
    """These arrays would fill 8 terabytes."""
    size = 10**6
    graph = graph_of(
        lambda p, x, y: pj.cross_entropy(pj.add(pj.matmul(x, p["w"]), p["b"]).T.T[:, ::-1], y),
        {"w": (size, size), "b": (size,)},
        (size, size),
        (size, size),
    )
    assert [node.shape.shape for node in graph.nodes if node.shape is not None] == [
        (size, size),
        (size, size),
        (size,),
        (size, size),
        (),
    ]
    require_bipartite(graph)


def test_the_function_is_called_once_with_tracers() -> None:
    calls = []

    def function(p: Any, x: Any, y: Any) -> Any:
        calls.append([(array.shape, array.dtype) for array in (p["w"], x, y)])
        assert all(isinstance(array, jax.core.Tracer) for array in (p["w"], x, y))
        return pj.margin_loss(x @ p["w"], y)

    graph_of(function, {"w": (4, 3)}, (8, 4), (8, 3))
    assert calls == [[((4, 3), np.float32), ((8, 4), np.float32), ((8, 3), np.float32)]]


def test_parameters_are_named_by_their_place() -> None:
    graph = graph_of(
        lambda p, x, y: pj.margin_loss(pj.matmul(x, p["layers"][1][0]), y),
        {"layers": [[], [(4, 3)]]},
        (8, 4),
        (8, 3),
    )
    assert [node.name for node in graph.nodes if isinstance(node, Parameter)] == ["params['layers'][1][0]"]


def test_deep_networks_trace() -> None:
    """Far deeper than Python's recursion allows."""

    def function(p: Any, x: Any, y: Any) -> Any:
        h = pj.matmul(x, p)
        for _ in range(1200):
            h = pj.relu(h)
        return pj.margin_loss(h, y)

    graph = graph_of(function, (4, 3), (8, 4), (8, 3))
    assert len(graph.layers()) == 1203
