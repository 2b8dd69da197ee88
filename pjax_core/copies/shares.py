"""Which part of what its output constraint asks reaches each node: the scale of directions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from pjax_core.arrays.meshes import is_open, varying, varying_axes
from pjax_core.copies.count import direct_slot, low_dtype, sum_over_copies
from pjax_core.graph.graph import Graph
from pjax_core.graph.nodes import Constant, Node, Operation, Parameter, Slot, is_index, sources_of
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
            found = losses_of(node, _inputs(node, start_of))
            assert found is not None
            return found

        return self._replace(losses={node: losses(node) / mean for node, mean in self.means.items()})


UNROLLED = 8
"""Ways in each step of the loop that goes along them."""


class _Way(NamedTuple):
    """What a node is asked by one of its readers, both by their places; numbers are logarithms to base 2.

    Attributes:
        part: which part of what the reader is asked reaches the mean of the node's copies.
        copies: how many copies of functions of parameters alone this is a mean of, where data take part in the reader.
        summed: how many copies of a parameter, or of a function of parameters alone, are asked what comes this way.
    """

    source: int
    reader: int
    part: Array
    copies: Any
    summed: Any


def log_shares(
    graph: Graph, start_of: Callable[[Node], Array], asking: Mapping[Node, Array] | None = None
) -> LogShares:
    """Which part of what its output constraint asks reaches each node.

    Or of what the nodes that are ``asking`` do, which have these shares themselves: in a step of a loop.
    """
    losses: dict[Node, Array] = {}
    means: dict[Node, Array] = {}
    ways = list(_ways(graph, start_of, losses, means))
    way_back, begin = _way_back(graph, ways), _asking(graph, asking)
    parts = jnp.stack([way.part for way in ways])
    shares, of_ways = _handed_back(way_back, parts, begin)
    if any(not isinstance(way.copies, float) or way.copies > 0 for way in ways):
        of_means, ways_of_means = _handed_back(way_back, parts + jnp.stack([way.copies for way in ways]), begin)
        is_parameter = np.asarray([isinstance(node, Parameter) for node in graph.nodes])
        shares = jnp.where(is_parameter, of_means, shares)
        of_ways = jnp.where(is_parameter[way_back.sources], ways_of_means, of_ways)
    # Of what is a mean of fewer copies than another way's, less is to count, as in a sum over all.
    most: dict[int, Any] = {}
    for way in ways:
        most[way.source] = _larger(most.get(way.source, 0.0), way.summed)
    fewer = jnp.stack([jnp.asarray(most[way.source] - way.summed) for way in ways])
    largest: dict[tuple[Node, Node], Array] = {}
    for way, of_way in zip(ways, of_ways + fewer, strict=True):
        source, reader = graph.nodes[way.source], graph.nodes[way.reader]
        before = largest.get((source, reader))
        largest[source, reader] = of_way if before is None else jnp.maximum(before, of_way)
    return LogShares(dict(zip(graph.nodes, shares, strict=True)), largest, losses, means)


def _ways(
    graph: Graph, start_of: Callable[[Node], Array], losses: dict[Node, Array], means: dict[Node, Array]
) -> Iterator[_Way]:
    """All of them, from the output back; adds to ``losses`` and ``means``."""
    place = {node: i for i, node in enumerate(graph.nodes)}
    alone = _of_parameters_alone(graph)
    summed: dict[Node, Any] = {}
    for node in reversed(graph.nodes):
        if not isinstance(node, Operation):
            continue
        inputs = _inputs(node, start_of)
        lost = losses_of(node, inputs, _weights(node))
        if lost is not None:
            means[node] = jnp.mean(lost) if lost.size else jnp.ones((), lost.dtype)
            losses[node] = lost / means[node]
        of_slots = of_inputs(node, inputs, means.get(node))
        for slot, of_slot, count in zip(node.slots, of_slots, copies(node), strict=True):
            for source in dict.fromkeys(source for source in slot.sources if source in place):
                is_parameter = isinstance(source, Parameter)
                viewed = _times_viewed(slot, source)
                of_one = 0.0 if is_parameter else _log2(count) + viewed
                part = jnp.log2(of_slot) - _log2(_readers(graph, node, source, start_of)) - of_one
                at_data = source in alone and node not in alone
                own = summed.get(node, 0.0) + (_log2(count) + viewed if is_parameter or at_data else 0.0)
                own = own if source in alone else 0.0
                summed[source] = _larger(summed.get(source, 0.0), own)
                yield _Way(place[source], place[node], part, of_one if at_data else 0.0, own)


def _readers(graph: Graph, reader: Operation, source: Node, start_of: Callable[[Node], Array]) -> float | Array:
    """How many operations read the elements of a node's output that one of them does, in the mean."""
    readers = graph.consumers[source]
    if len(readers) == 1 or all(direct_slot(other, source) is not None for other in readers):
        return float(len(readers))
    read = [(sum_over_copies(other, source, None, start_of) > 0).astype(jnp.float32) for other in readers]
    own = read[readers.index(reader)]
    return jnp.sum(own * sum(read)) / jnp.maximum(jnp.sum(own), 1)


def _times_viewed(slot: Slot, source: Node) -> float:
    """How often a slot has each element of its only source, in the mean; the logarithm, 0 for several sources."""
    if sum(not is_index(other) for other in slot.sources) > 1 or is_open(slot.shape, source.shape):
        return 0.0
    return max(0.0, float(np.log2(max(slot.shape.size, 1) / max(source.shape.size, 1))))


def _larger(one: Any, other: Any) -> Any:
    """The larger number, of Python if both are."""
    return max(one, other) if isinstance(one, float) and isinstance(other, float) else jnp.maximum(one, other)


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


def _way_back(graph: Graph, ways: Sequence[_Way]) -> _WayBack:
    """First all ways to nodes from those that follow; then to states that are only read by steps that come later."""
    sources, readers = np.asarray([(way.source, way.reader) for way in ways]).T
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
    count = node.primitive.rows or node.primitive.copies
    counts = count(*(slot.shape for slot in node.slots), **node.settings)
    return [
        float(np.max(count, initial=0)) if isinstance(count, (int, np.ndarray)) else jnp.max(jnp.asarray(count, float))
        for count in counts
    ]


def of_inputs(node: Operation, inputs: Sequence[Array], mean_loss: Array | None) -> Sequence[float | Array]:
    """What part of a residual of the operation, or of a strength, reaches each of its inputs, besides the copies."""
    parts = node.primitive.parts(inputs, mean_loss, **node.settings)
    return parts if node.emphasis == 1 else [part / node.emphasis for part in parts]


def _inputs(node: Operation, start_of: Callable[[Node], Array]) -> list[Array]:
    """What an operation reads, in the dtype of changes."""
    return [_wide(slot.read(start_of)) for slot in node.slots]


def losses_of(node: Operation, inputs: Sequence[Array], weights: Sequence[int] = ()) -> Array | None:
    """By what each dot product of an operation divides what it hands on, or function of an element; None for others.

    Columns of ``weights``, the places of inputs, count as though they were alike.
    """
    if node.primitive.losses is None:
        return _losses_of_elements(node, inputs)
    # Of weights alone there are no samples beside which columns of weights would count.
    return node.primitive.losses(inputs, weights if len(weights) < len(inputs) else (), **node.settings)


def _weights(node: Operation) -> list[int]:
    """The places of the inputs that are parameters."""
    return [place for place, slot in enumerate(node.slots) if all(isinstance(s, Parameter) for s in slot.sources)]


def _losses_of_elements(node: Operation, inputs: Sequence[Array]) -> Array | None:
    """``1 + f'(x)^2`` of a function of each element, 1 where nothing is handed on; None for other operations."""
    primitive = node.primitive
    x, *constants = inputs
    if primitive.moving_inputs(len(inputs)) != 1 or primitive.spread is not as_they_are or primitive.shares is not None:
        return None
    if x.shape != node.shape.shape or primitive.constrains_output:
        return None
    _, slope = jax.jvp(lambda x: primitive.forward(x, *constants, **node.settings), (x,), (jnp.ones_like(x),))
    losses = 1 + slope * slope
    return jnp.where(jnp.isfinite(losses), losses, 1)  # as of a square root at 0
