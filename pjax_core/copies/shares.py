"""Which part of what its output constraint asks reaches each node: the scale of directions."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from pjax_core.arrays.meshes import is_open, varying, varying_axes
from pjax_core.copies.count import low_dtype, sum_over_copies
from pjax_core.graph.graph import Graph
from pjax_core.graph.nodes import Constant, Node, Operation, Parameter, Slot, is_index, sources_of
from pjax_core.operations.primitive import as_they_are, losses_by_slopes


class LogShares(NamedTuple):
    """Parts of the pull of the output constraint, whose logarithms are to base 2.

    Attributes:
        nodes: the part that reaches all copies of each node together: where there are several ways, the largest.
        ways: the part that comes to a node from an operation that reads it, for each pair of these.
        places: of the nodes among the former.
        pairs: of a node and a reader among the latter.
        losses: for operations made of dot products, and functions of each element, how much less of what it is asked
            each of these hands on than their mean, which is 1.  Of weights, columns count as though they were alike.
        means: by what these losses were divided.
        parts: for other operations the part of what they are asked that reaches their inputs, where values decide.
    """

    nodes: Array
    ways: Array
    places: dict[Node, int]
    pairs: dict[tuple[Node, Node], int]
    losses: dict[Operation, Array]
    means: dict[Operation, Array]
    parts: dict[Operation, Array]

    def of_step(self, start_of: Callable[[Node], Array]) -> LogShares:
        """The same shares, with what each operation of another step of a loop hands on less among the losses."""

        def losses(node: Operation) -> Array:
            found = losses_of(node, _inputs(node, start_of))
            assert found is not None
            return found

        by_products = {node: losses(node) / mean for node, mean in self.means.items()}
        others = {node: part / of_inputs(node, _inputs(node, start_of), None)[0] for node, part in self.parts.items()}
        return self._replace(losses=by_products | others)


UNROLLED = 8
"""Ways in each step of the loop that goes along them."""


class _OfOperations(NamedTuple):
    """The last fields of :class:`LogShares`."""

    losses: dict[Operation, Array]
    means: dict[Operation, Array]
    parts: dict[Operation, Array]


class _Way(NamedTuple):
    """What a node is asked by one of its readers, both by their places; numbers are logarithms to base 2.

    Attributes:
        part: which part of what the reader is asked reaches all its copies of the node, or the mean of all copies.
    """

    source: int
    reader: int
    part: Array


def log_shares(
    graph: Graph, start_of: Callable[[Node], Array], asking: Mapping[Node, Array] | None = None
) -> LogShares:
    """Which part of what its output constraint asks reaches each node.

    Or of what the nodes that are ``asking`` do, which have these shares themselves: in a step of a loop.
    """
    found = _OfOperations({}, {}, {})
    ways = list(_ways(graph, start_of, found))
    parts = jnp.stack([way.part for way in ways])
    shares, of_ways = _handed_back(_way_back(graph, ways), parts, _asking(graph, asking))
    pairs: dict[tuple[Node, Node], int] = {}
    numbers = [pairs.setdefault((graph.nodes[way.source], graph.nodes[way.reader]), len(pairs)) for way in ways]
    if len(pairs) < len(ways):
        of_ways = jnp.full(len(pairs), -jnp.inf, of_ways.dtype).at[np.asarray(numbers)].max(of_ways)
    shares = jnp.where(jnp.isneginf(shares), 0, shares)  # of nodes that nothing is asked of
    return LogShares(shares, of_ways, {node: i for i, node in enumerate(graph.nodes)}, pairs, *found)


def log_shares_of_means(graph: Graph, start_of: Callable[[Node], Array]) -> dict[Node, Array]:
    """Which part reaches the mean of all copies of each node, or of what is computed of it alone, in a step of CP."""
    ways = list(_ways(graph, start_of, _OfOperations({}, {}, {}), _of_parameters_alone(graph)))
    parts = jnp.stack([way.part for way in ways])
    shares, _ = _handed_back(_way_back(graph, ways), parts, _asking(graph, None))
    return dict(zip(graph.nodes, shares, strict=True))


def _ways(
    graph: Graph,
    start_of: Callable[[Node], Array],
    found: _OfOperations,
    alone: Container[Node] | None = None,
) -> Iterator[_Way]:
    """All of them, from the output back; adds to what is ``found``.

    To the means of all copies if the nodes that are of parameters ``alone`` are given.
    """
    place = {node: i for i, node in enumerate(graph.nodes)}
    for node in reversed(graph.nodes):
        if not isinstance(node, Operation):
            continue
        inputs = _inputs(node, start_of)
        lost = losses_of(node, inputs, _weights(node))
        if lost is not None:
            found.means[node] = jnp.mean(lost) if lost.size else jnp.ones((), lost.dtype)
            found.losses[node] = lost / found.means[node]
        of_slots = of_inputs(node, inputs, found.means.get(node))
        if lost is None and isinstance(of_slots[0], Array) and not node.primitive.constrains_output:
            found.parts[node] = of_slots[0]
        for slot, of_slot, count in zip(node.slots, of_slots, copies(node), strict=True):
            for source in dict.fromkeys(source for source in slot.sources if source in place):
                part = jnp.log2(of_slot)
                if alone is not None:
                    of_parameter = isinstance(source, Parameter) or (source in alone and node not in alone)
                    held = _copies(node, slot, source, count, start_of) if of_parameter else _log2(count)
                    part = part - (_log2(float(len(graph.consumers[source]))) + held)
                elif not slot.asks(source):
                    part = jnp.full_like(part, -jnp.inf)
                yield _Way(place[source], place[node], part)


def _copies(node: Operation, slot: Slot, source: Node, count: Any, start_of: Callable[[Node], Array]) -> Any:
    """The logarithm of how many copies of each element of a source a slot has, in the mean."""
    if sum(not is_index(other) for other in slot.sources) > 1:
        return jnp.log2(jnp.maximum(jnp.mean(sum_over_copies(node, source, None, start_of)), 1))
    sizes = slot.shape.size, source.shape.size
    if is_open(slot.shape, source.shape):
        return _log2(count) + jnp.log2(jnp.asarray(sizes[0], float)) - jnp.log2(jnp.asarray(sizes[1], float))
    return _log2(count) + max(0.0, float(np.log2(max(sizes[0], 1) / max(sizes[1], 1))))


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
    if not node.primitive.constrains_output:
        return parts
    # The value is the sum over all that are mapped over.
    return [part / (node.factor * jnp.asarray(node.shape.size, float)) for part in parts]


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
    return losses_by_slopes(lambda x: primitive.forward(x, *constants, **node.settings), x)
