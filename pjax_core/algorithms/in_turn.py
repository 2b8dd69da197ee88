"""Projections in place: for the least memory.

XLA's CPU compiler gives results memory of their own beside what they replace.  Here each operation that takes much
memory stands in a loop that runs once.  To the compiler that is one instruction, with arrays that stay in their places.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import jax
from jax import Array

from pjax_core.copies.changes import Changes
from pjax_core.copies.consensus import Schedule, State, closed, opened
from pjax_core.copies.count import direct_slot, sources
from pjax_core.graph.colour import Graph
from pjax_core.graph.nodes import Node, Operation, Parameter
from pjax_kernels.compose import always, replaced_if


def project_in_turn(graph: Graph, sets: Schedule, state: State) -> State:
    """The same as :func:`pjax_core.copies.consensus.project`, with each large operation in a loop.

    Where only one operation uses a parameter that is in a later set, both are projected together.
    """
    for place, nodes in enumerate(sets):
        state = _project_set(graph, nodes, list(itertools.chain.from_iterable(sets[place + 1 :])), state)
    return state


def _project_set(graph: Graph, nodes: Sequence[Node], later: Sequence[Node], state: State) -> State:
    changes = opened(graph, state)
    waiting = set(nodes)
    for node in nodes:
        waiting.remove(node)
        with jax.named_scope(graph.label(node)):
            if isinstance(node, Operation):
                _project_in_a_loop(changes, node, waiting, later)
            else:
                changes.project(node)
    return closed(changes, state)


def _project_in_a_loop(changes: Changes, node: Operation, waiting: set[Node], later: Sequence[Node]) -> None:
    """Project one operation and move the copies of its sources, in a loop that runs once if that takes much memory."""
    parameters = (source for source in sources(node) if isinstance(source, Parameter))
    settled = next((source for source in parameters if _may_settle(changes, node, source, later)), None)
    large = node.primitive.bilinear is not None or node.primitive.constrains_output
    cells = _replaced(changes, node, settled, waiting) if large else []
    if not cells:
        changes.project(node, settled)
        return
    arrays = tuple(getattr(changes, cell.before)[cell.node] for cell in cells)

    def projected(arrays: tuple[Array, ...]) -> tuple[Array, ...]:
        inner = changes.copy()
        for cell, array in zip(cells, arrays, strict=True):
            getattr(inner, cell.before)[cell.node] = array
        inner.project(node, settled)
        return tuple(getattr(inner, cell.after)[cell.node] for cell in cells)

    new = replaced_if(always(min(arrays, key=lambda array: array.size)), projected, arrays)
    changes.targets.pop(node, None)
    for cell, array in zip(cells, new, strict=True):
        getattr(changes, cell.after)[cell.node] = array


class _Cell(NamedTuple):
    """A change that a projection replaces: the attribute that holds it before, that after, and its node."""

    before: str
    after: str
    node: Node


def _replaced(changes: Changes, node: Operation, settled: Node | None, waiting: set[Node]) -> list[_Cell]:
    """The changes that the projection of an operation replaces; those that it only adds get their first values."""
    cells = [] if node.primitive.constrains_output else [_Cell(_mean_at(changes, node), "values", node)]
    for source in sources(node):
        if source is settled:
            cells.append(_Cell("values", "values", source))
        else:
            if isinstance(source, Parameter) or not waiting.isdisjoint(changes.graph.consumers[source]):
                changes.targets.setdefault(source, changes.values[source])  # others need the value that copies share
            cells.append(_Cell(_mean_at(changes, source), "targets", source))
    return cells


def _mean_at(changes: Changes, node: Node) -> str:
    """Where the mean of the copies of a node's output is held."""
    return "targets" if node in changes.targets else "values"


def _may_settle(changes: Changes, node: Operation, source: Parameter, later: Sequence[Node]) -> bool:
    """Whether a parameter can be projected together with the operation, as the only one that uses it."""
    if source in changes.graph.regions or source not in later:
        return False
    alone = changes.graph.consumers[source] == (node,) and source not in changes.targets
    one_dtype = len({changes.values[source].dtype, *(slot.shape.dtype for slot in node.slots)}) == 1
    return node.primitive.project_in_place is not None and alone and one_dtype and direct_slot(node, source) == 1
