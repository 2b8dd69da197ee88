"""Loops in a graph: what is in them, and nodes in an order that keeps them together."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from pjax_core.graph.graph import Loop, consumers_of
from pjax_core.graph.nodes import Feedback, Node, Operation, Slot, ordered, sources_of


def with_states(outputs: Sequence[Operation], loops: Sequence[Loop]) -> tuple[list[Operation], list[Loop]]:
    """Output constraints and after them the states after each step that they need, which those before it read.

    And the loops that are left, with what is needed of them.
    """
    pairs = {before: after for loop in loops for before, after in zip(loop.before, loop.after, strict=True)}
    needed, found = list(outputs), set[Node]()
    while True:
        found = set(ordered(needed))
        others = [after for before, after in pairs.items() if before in found and after not in needed]
        if not others:
            break
        needed += others
    later = {
        feedback: replace(feedback, tag=after.tag)
        for loop in loops
        for feedback, after in zip(loop.later, loop.after, strict=True)
    }
    new = rebuilt(ordered(needed), later=lambda source: later.get(source, source))
    return [new[node] for node in needed], [loop for loop in loops if not found.isdisjoint(loop.before)]


def rebuilt(
    nodes: Iterable[Node],
    leaf: Callable[[Node], Node] = lambda node: node,
    later: Callable[[Feedback], Node] = lambda source: source,
) -> dict[Node, Any]:
    """The nodes, each after its sources, reading each other, with what is no operation, or comes later, replaced."""
    new: dict[Node, Any] = {}

    def read(slot: Slot) -> Slot:
        return slot.reading(lambda source: later(source) if isinstance(source, Feedback) else new[source])

    for node in nodes:
        new[node] = node.reading(read, read) if isinstance(node, Operation) else leaf(node)
    return new


def in_order(nodes: Sequence[Node], loops: Sequence[Loop]) -> list[Node]:
    """The nodes, each after its sources, such that all of each loop stand together."""
    inside = sorted((members(nodes, loop) for loop in loops), key=len)
    found = list(nodes)
    for own in inside:
        apart = [other for other in inside if own.isdisjoint(other)]
        after = _after(found, own, apart)
        found = [
            *(node for node in found if node not in own and node not in after),
            *(node for node in found if node in own),
            *(node for node in found if node in after),
        ]
    return found


def _after(nodes: Sequence[Node], own: set[Node], apart: Sequence[set[Node]]) -> set[Node]:
    """What reads any of a loop's own nodes, with the whole of other loops."""
    readers = consumers_of(nodes)
    found = set(own)
    while True:
        size = len(found)
        found |= _reached(found, readers.__getitem__)
        for other in apart:
            if not found.isdisjoint(other):
                found |= other
        if len(found) == size:
            return found - own


def loops_around(nodes: Sequence[Node], loops: Sequence[Loop]) -> dict[Node, frozenset[int]]:
    """The numbers of the loops in which each node is."""
    inside = [members(nodes, loop) for loop in loops]
    return {node: frozenset(i for i, own in enumerate(inside) if node in own) for node in nodes}


def members(nodes: Sequence[Node], loop: Loop) -> set[Node]:
    """The operations by which the states of a loop, and its outputs, follow from the states before."""
    own, readers = {node: node for node in nodes}, consumers_of(nodes)
    before, ends = ([node for node in some if node in own] for some in (loop.before, (*loop.after, *loop.outputs)))
    # As they are among the nodes: the loop's have their sources of before these were rebuilt.
    return _reached(before, readers.__getitem__) & _reached(ends, lambda node: sources_of(own[node]))


def _reached(start: Iterable[Node], neighbours: Callable[[Node], Iterable[Node]]) -> set[Node]:
    """All that can be reached from nodes, with these."""
    found = set(start)
    queue = deque(found)
    while queue:
        for node in neighbours(queue.popleft()):
            if node not in found:
                found.add(node)
                queue.append(node)
    return found
