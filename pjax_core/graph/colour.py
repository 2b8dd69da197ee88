"""The two colours of the graph: no two adjacent nodes agree."""

from __future__ import annotations

import enum
import functools
import itertools
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from jax import Array

from pjax_core.graph.nodes import Computed, Feedback, Node, Operation, Parameter, is_fixed, of_node, sources_of
from pjax_core.operations import primitives

_Held = TypeVar("_Held")


class Colour(enum.Enum):
    """The two sides of the graph; output constraints are in A."""

    A = "A"
    B = "B"

    @property
    def opposite(self) -> Colour:
        """The other side."""
        return Colour.B if self is Colour.A else Colour.A


@dataclass(frozen=True)
class Graph:
    """A two-coloured graph; ``nodes`` holds parameters and operations, each after its sources.

    ``colours`` gives the side of each node, ``depth`` its distance from the output: the fewest slots between.
    ``computed`` are the functions of data alone that operations read.  ``regions`` has for parameters that are
    always in a set the constraint which says so (:mod:`pjax_core.graph.sets`), and which is not among the nodes.
    ``holds_tracers`` says whether the function closes over arrays of a function of JAX that is being traced, outside
    which they mean nothing.  ``costs`` gives, of parameters and data, what the metric of a problem makes operations
    read after their inputs (:mod:`pjax_core.graph.costs`).
    """

    nodes: tuple[Node, ...]
    colours: dict[Node, Colour]
    depth: dict[Node, int]
    consumers: dict[Node, tuple[Operation, ...]] = field(repr=False)
    computed: tuple[Computed, ...] = ()
    holds_tracers: bool = False
    regions: dict[Parameter, Operation] = field(default_factory=dict)
    costs: Callable[[Any, tuple[Any, ...]], tuple[Array, ...]] | None = None

    @functools.cached_property
    def keys(self) -> dict[Node, str]:
        """The nodes' places among all, as states name them: strings, the keys that exported functions may have."""
        return {node: str(place) for place, node in enumerate(self.nodes)}

    @functools.cached_property
    def operations(self) -> tuple[Operation, ...]:
        """The operations in their order."""
        return tuple(node for node in self.nodes if isinstance(node, Operation))

    def by_node(self, arrays: Mapping[str, _Held]) -> dict[Any, _Held]:
        """What states hold for the places of nodes, for the nodes themselves."""
        return {self.nodes[int(place)]: held for place, held in arrays.items()}

    def by_key(self, of_nodes: Mapping[Any, _Held]) -> dict[str, _Held]:
        """What is held for nodes, for their places."""
        return {self.keys[node]: held for node, held in of_nodes.items()}

    @functools.cached_property
    def parameters(self) -> tuple[Parameter, ...]:
        """The parameters in the order of their tree."""
        return tuple(sorted((n for n in self.nodes if isinstance(n, Parameter)), key=lambda p: p.index))

    def coloured(self, colour: Colour) -> tuple[Node, ...]:
        """The nodes of one colour."""
        return tuple(node for node in self.nodes if self.colours[node] is colour)

    def label(self, node: Node) -> str:
        """The node's name, numbered among those of the same name."""
        same = [other for other in self.nodes if other.name == node.name]
        return node.name if len(same) == 1 else f"{node.name} {same.index(node) + 1}"

    def layers(self) -> tuple[tuple[Node, ...], ...]:
        """The nodes by their distance from the output, nearest first; no two of one layer are adjacent."""
        return tuple(tuple(n for n in self.nodes if self.depth[n] == d) for d in range(1 + max(self.depth.values())))


def _consumers(nodes: Sequence[Node]) -> dict[Node, tuple[Operation, ...]]:
    """The operations that hold copies of each node, each once."""
    consumers: dict[Node, dict[Any, None]] = {node: {} for node in nodes}
    for node in nodes:
        for source in sources_of(node):
            consumers[source][node] = None
    return {node: tuple(users) for node, users in consumers.items()}


def two_colour(nodes: Sequence[Node], data_leaves: int, apart: bool = False) -> Graph:
    """Colour the nodes so that no two adjacent ones agree, with identities inserted where they would.

    What is computed from data is numbered from ``data_leaves`` on.  With ``apart`` all operations are in A: then those
    in B, identities, say no more than that copies agree.
    """
    colours = _all_in_a(nodes) if apart else _search_colours(nodes)
    copied: dict[Node, Node] = {}  # a node as rebuilt with its new sources
    through: dict[Node, Operation] = {}  # the identity that stands between a node and consumers of its colour
    coloured: dict[Node, Colour] = {}  # the nodes of the graph, each after its sources
    numbers = itertools.count(data_leaves)

    def source_for(consumer: Node, source: Node) -> Node:
        if isinstance(source, Feedback):
            return source  # of the other colour
        if is_fixed(source) or colours[source] is not colours[consumer]:
            return copied[source]
        if source not in through:
            slots = (of_node(copied[source]),)
            through[source] = Operation(f"identity({source.name})", source.shape, primitives.identity, slots, {})
            coloured[through[source]] = colours[source].opposite
        return through[source]

    def with_sources(node: Operation) -> Operation:
        return node.reading(
            lambda slot: slot.reading(lambda source: source_for(node, source)),
            lambda slot: slot.reading(copied.__getitem__),
        )

    for node in nodes:
        if isinstance(node, Computed):
            copied[node] = replace(node, index=next(numbers))
        else:
            copied[node] = with_sources(node) if isinstance(node, Operation) else node
        if not is_fixed(node):
            coloured[copied[node]] = colours[node]
    fixed = [copied[node] for node in nodes if is_fixed(node)]
    consumers = _consumers([*fixed, *coloured])
    computed = tuple(node for node in fixed if isinstance(node, Computed))
    return Graph(tuple(coloured), coloured, _depths(tuple(coloured), consumers), consumers, computed)


def _all_in_a(nodes: Sequence[Node]) -> dict[Node, Colour]:
    """Operations in A, parameters in B."""
    for node in nodes:
        if isinstance(node, Operation) and node.feedback is not None:
            raise ValueError(
                f"{node.name} is a recurrence, whose copies have no metric, since no identity can stand between its "
                "operations; take gamma=0"
            )
    return {node: Colour.A if isinstance(node, Operation) else Colour.B for node in nodes if not is_fixed(node)}


def _search_colours(nodes: Sequence[Node]) -> dict[Node, Colour]:
    """Breadth-first alternation from the output constraints; parameters last, opposite to most of their consumers."""
    operations = [node for node in nodes if isinstance(node, Operation)]
    place: dict[Node, Operation] = {node: node for node in operations}
    consumers = _consumers(nodes)
    neighbours: dict[Operation, list[Operation]] = {node: [] for node in operations}
    for node in operations:
        for consumer in consumers[node]:
            neighbours[node].append(consumer)
            neighbours[consumer].append(node)
    # No identity can stand between an operation and one before it that refers to it.
    partners: dict[Node, Operation] = {node: place[node.feedback] for node in operations if node.feedback is not None}
    partners |= {later: node for node in operations for later in (partners.get(node),) if later is not None}
    colours: dict[Node, Colour] = {node: Colour.A for node in operations if node.primitive.constrains_output}
    queue = deque(node for node in operations if node in colours)
    while queue:
        node = queue.popleft()
        for neighbour in neighbours[node]:
            if neighbour not in colours:
                colours[neighbour] = colours[node].opposite
                queue.append(neighbour)
                if neighbour in partners:
                    colours[partners[neighbour]] = colours[node]
                    queue.append(partners[neighbour])
    for parameter in nodes:
        if isinstance(parameter, Parameter):
            in_a = sum(colours[consumer] is Colour.A for consumer in consumers[parameter])
            colours[parameter] = Colour.B if 2 * in_a > len(consumers[parameter]) else Colour.A
    return colours


def _depths(nodes: Sequence[Node], consumers: dict[Node, tuple[Operation, ...]]) -> dict[Node, int]:
    """The distance of each node from the nearest output constraint."""
    depths: dict[Node, int] = {}
    for node in reversed(nodes):
        # A consumer that comes before the node is no way to the output.
        depths[node] = 1 + min((depths[consumer] for consumer in consumers[node] if consumer in depths), default=-1)
    return depths
