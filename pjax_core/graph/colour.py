"""The two colours of the graph: no two adjacent nodes agree."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Sequence
from dataclasses import replace

from pjax_core.graph.graph import Colour, Graph, Loop, consumers_of
from pjax_core.graph.loops import loops_around, rebuilt
from pjax_core.graph.nodes import Computed, Feedback, Node, Operation, Parameter, is_fixed, of_node, sources_of
from pjax_core.operations import primitives


def two_colour(nodes: Sequence[Node], data_leaves: int, apart: bool = False, loops: Sequence[Loop] = ()) -> Graph:
    """Colour the nodes so that no two adjacent ones agree, with identities inserted where they would.

    What is computed from data is numbered from ``data_leaves`` on.  With ``apart`` all operations are in A: then those
    in B, identities, say no more than that copies agree.  One stands either inside a loop or outside.
    """
    colours = _all_in_a(nodes) if apart else _search_colours(nodes)
    copied: dict[Node, Node] = {}  # a node as rebuilt with its new sources
    # The identity that stands between a node and consumers of its colour, of those in the same loops.
    through: dict[tuple[Node, frozenset[int]], Operation] = {}
    inside = loops_around(nodes, loops)
    coloured: dict[Node, Colour] = {}  # the nodes of the graph, each after its sources
    numbers = itertools.count(data_leaves)

    def source_for(consumer: Node, source: Node) -> Node:
        if isinstance(source, Feedback):
            return source  # of the other colour
        if is_fixed(source) or colours[source] is not colours[consumer]:
            return copied[source]
        place = source, inside[source] & inside[consumer]
        if place not in through:
            slots = (of_node(copied[source]),)
            through[place] = Operation(f"identity({source.name})", source.shape, primitives.identity, slots, {})
            coloured[through[place]] = colours[source].opposite
        return through[place]

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
    consumers = consumers_of([*fixed, *coloured])
    computed = tuple(node for node in fixed if isinstance(node, Computed))
    depths = _depths(tuple(coloured), consumers)
    return Graph(tuple(coloured), coloured, depths, consumers, computed, loops=tuple(loops))


def uncoloured(nodes: Sequence[Node], data_leaves: int, loops: Sequence[Loop]) -> Graph:
    """The graph of nodes, each after its sources, from which values are computed and no more.

    What is computed from data is numbered from ``data_leaves`` on.
    """
    numbers = itertools.count(data_leaves)

    def numbered(node: Node) -> Node:
        return replace(node, index=next(numbers)) if isinstance(node, Computed) else node

    graph = list(rebuilt(nodes, leaf=numbered).values())
    computed = tuple(node for node in graph if isinstance(node, Computed))
    moving = tuple(node for node in graph if not is_fixed(node))
    return Graph(moving, {}, {}, consumers_of(graph), computed, loops=tuple(loops))


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
    consumers = consumers_of(nodes)
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
    """The distance of each node from the nearest output constraint, or other node that nothing reads."""
    depths: dict[Node, int] = {node: 0 for node in nodes if not consumers[node]}
    queue = deque(depths)
    own = {node: node for node in nodes}
    while queue:
        node = queue.popleft()
        for source in sources_of(node):
            if not is_fixed(source) and source not in depths:
                depths[own[source]] = depths[node] + 1
                queue.append(own[source])
    return {node: depths[node] for node in nodes}
