"""Which part of what its output constraint asks reaches each node: the scale of directions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from pjax_core.arrays.meshes import varying, varying_axes
from pjax_core.copies.count import low_dtype
from pjax_core.graph.graph import Graph
from pjax_core.graph.nodes import Constant, Node, Operation, Parameter, sources_of
from pjax_core.operations.primitive import as_they_are


class LogShares(NamedTuple):
    """Parts of the pull of the output constraint.

    Attributes:
        of_nodes: the logarithm to base 2 of the part that reaches each node: where there are several ways, the largest.
            Of parameters the part that reaches the mean of all copies of them, or of what is computed of them alone.
        of_ways: of the part that comes to a node from each operation that reads it.
        losses: for operations made of dot products, and functions of each element, how much less of what it is asked
            each of these hands on than their mean, which is 1.  Of weights, columns count as though they were alike.
        means: by what these losses were divided.
    """

    of_nodes: dict[Node, Array]
    of_ways: dict[tuple[Node, Node], Array]
    losses: dict[Node, Array]
    means: dict[Node, Array]

    def of_step(self, start_of: Callable[[Node], Array]) -> LogShares:
        """The same shares, with the losses of another step of a loop divided by these means."""

        def losses(node: Node) -> Array:
            assert isinstance(node, Operation)
            found = _losses(node, _inputs(node, start_of))
            assert found is not None
            return found

        return self._replace(losses={node: losses(node) / mean for node, mean in self.means.items()})


UNROLLED = 8
"""Ways in each step of the loop that goes along them."""


def log_shares(
    graph: Graph, start_of: Callable[[Node], Array], asking: Mapping[Node, Array] | None = None
) -> LogShares:
    """Which part of what its output constraint asks reaches each node.

    Or of what the nodes that are ``asking`` do, which have these shares themselves: in a step of a loop.
    """
    place = {node: i for i, node in enumerate(graph.nodes)}
    alone = _of_parameters_alone(graph)
    ways: list[tuple[int, int]] = []  # what is read and its reader, from the output back
    parts: list[Array] = []
    averaged: list[Array | float] = []  # over how many copies a mean is to be taken on each way
    losses: dict[Node, Array] = {}
    means: dict[Node, Array] = {}
    for node in reversed(graph.nodes):
        if isinstance(node, Operation):
            inputs = _inputs(node, start_of)
            lost = _losses(node, inputs)
            of_slots = of_inputs(node, inputs, lost)
            if lost is not None:
                means[node] = jnp.mean(lost)
                losses[node] = lost / means[node]
            for slot, of_slot, count in zip(node.slots, of_slots, copies(node), strict=True):
                for source in dict.fromkeys(source for source in slot.sources if source in place):
                    of_one = 1.0 if isinstance(source, Parameter) else count
                    ways.append((place[source], place[node]))
                    parts.append(jnp.log2(of_slot) - _log2(len(graph.consumers[source]) * of_one))
                    averaged.append(_log2(of_one) if source in alone and node not in alone else 0.0)
    way_back, begin = _way_back(graph, ways), _asking(graph, asking)
    shares, of_ways = _handed_back(way_back, jnp.stack(parts), begin)
    if any(not isinstance(count, float) or count > 0 for count in averaged):
        of_means, _ = _handed_back(way_back, jnp.stack(parts) + jnp.stack(averaged), begin)
        shares = jnp.where(np.asarray([isinstance(node, Parameter) for node in graph.nodes]), of_means, shares)
    largest: dict[tuple[Node, Node], Array] = {}
    for way, of_way in zip(ways, of_ways, strict=True):
        source, reader = (graph.nodes[i] for i in way)
        before = largest.get((source, reader))
        largest[source, reader] = of_way if before is None else jnp.maximum(before, of_way)
    return LogShares(dict(zip(graph.nodes, shares, strict=True)), largest, losses, means)


def _log2(count: Any) -> Any:
    """The logarithm of a number of copies, which may be known."""
    return float(np.log2(max(count, 1))) if isinstance(count, float) else jnp.log2(jnp.maximum(count, 1))


def _of_parameters_alone(graph: Graph) -> set[Node]:
    """The parameters, and the operations that no data take part in."""
    found: set[Node] = set()
    for node in graph.nodes:
        sources = [source for source in sources_of(node) if not isinstance(source, Constant)]
        if isinstance(node, Parameter) or (sources and found.issuperset(sources)):
            found.add(node)
    return found


def _asking(graph: Graph, asking: Mapping[Node, Array] | None) -> Array:
    """The shares of the nodes that ask, of output constraints 0, and minus infinity for all others."""
    if asking is not None:
        return jnp.stack([jnp.asarray(asking.get(node, -jnp.inf)) for node in graph.nodes])
    asks = [isinstance(node, Operation) and node.primitive.constrains_output for node in graph.nodes]
    return jnp.where(np.asarray(asks), 0.0, -jnp.inf)


class _WayBack(NamedTuple):
    """The ways from readers to what they read, by places, and in which order to go them."""

    sources: np.ndarray
    readers: np.ndarray
    order: np.ndarray


def _way_back(graph: Graph, ways: Sequence[tuple[int, int]]) -> _WayBack:
    """First all ways to nodes from those that follow; then to states that are only read by steps that come later."""
    sources, readers = np.asarray(ways).T
    is_read = np.isin(np.arange(len(graph.nodes)), sources[sources < readers])
    (forwards,) = np.nonzero(sources < readers)
    (from_later,) = np.nonzero((sources > readers) & ~is_read[sources])
    rounds = [np.concatenate([from_later, forwards])] * len(set(sources[from_later]))
    return _WayBack(sources, readers, np.concatenate([forwards, *rounds]))


def _handed_back(ways: _WayBack, parts: Array, begin: Array) -> tuple[Array, Array]:
    """What reaches each node, and by each way, of which readers keep all but their parts.

    A loop: else whatever is scaled by a share is compiled to add up all the parts above it anew.
    """
    sources, readers, order = map(jnp.asarray, ways)

    def hand_back(number: Array, shares: Array) -> Array:
        way = order[number]
        return shares.at[sources[way]].max(shares[readers[way]] + parts[way])

    begin = varying(begin.astype(parts.dtype), varying_axes(parts))
    shares = lax.fori_loop(0, len(ways.order), hand_back, begin, unroll=UNROLLED)
    return shares, shares[readers] + parts


def _wide(array: Array) -> Array:
    """An array in the dtype of changes, except for choices, such as a mask."""
    return array.astype(low_dtype(array.dtype)) if jnp.issubdtype(array.dtype, jnp.floating) else array


def copies(node: Operation) -> list[Any]:
    """How many copies the operation holds of the elements of each slot, at most."""
    counts = node.primitive.copies(*(slot.shape for slot in node.slots), **node.settings)
    return [
        float(np.max(count, initial=0)) if isinstance(count, (int, np.ndarray)) else jnp.max(jnp.asarray(count, float))
        for count in counts
    ]


def of_inputs(node: Operation, inputs: Sequence[Array], losses: Array | None) -> Sequence[float | Array]:
    """What part of a residual of the operation, or of a strength, reaches each of its inputs, besides the copies."""
    parts = node.primitive.parts(inputs, losses, **node.settings)
    return parts if node.emphasis == 1 else [part / node.emphasis for part in parts]


def _inputs(node: Operation, start_of: Callable[[Node], Array]) -> list[Array]:
    """What an operation reads, in the dtype of changes."""
    return [_wide(slot.read(start_of)) for slot in node.slots]


def _losses(node: Operation, inputs: Sequence[Array]) -> Array | None:
    """Those of dot products, or of functions of each element."""
    found = losses_of(node, inputs)
    return _losses_of_elements(node, inputs) if found is None else found


def _losses_of_elements(node: Operation, inputs: Sequence[Array]) -> Array | None:
    """``1 + f'(x)^2`` of a function of each element; None for other operations."""
    primitive = node.primitive
    x, *constants = inputs
    if primitive.moving_inputs(len(inputs)) != 1 or primitive.spread is not as_they_are or primitive.shares is not None:
        return None
    if x.shape != node.shape.shape or primitive.constrains_output:
        return None
    _, slope = jax.jvp(lambda x: primitive.forward(x, *constants, **node.settings), (x,), (jnp.ones_like(x),))
    return 1 + slope * slope


def losses_of(node: Operation, inputs: Sequence[Array]) -> Array | None:
    """By what each dot product of an operation divides what it hands on; None for other operations."""
    if node.primitive.losses is None:
        return None
    weights = [
        place for place, slot in enumerate(node.slots) if all(isinstance(source, Parameter) for source in slot.sources)
    ]
    return node.primitive.losses(inputs, weights, **node.settings)
