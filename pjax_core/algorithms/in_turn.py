"""Projections one after the other, where :func:`project` leaves them side by side: for the least memory.

What XLA's CPU compiler holds at a time follows from its order of the program, and it orders for speed: all matrix
products first, so that their results are all alive together.  Here each operation that takes much memory stands in a
loop that runs once.  To the compiler that is one instruction, with arrays that stay in their places.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from pjax_core.copies.consensus import OpenState, State, inputs_and_estimate, project_operation
from pjax_core.copies.count import direct_slot, mean_change, sources
from pjax_core.graph.colour import Graph
from pjax_core.graph.nodes import Node, Operation, Parameter
from pjax_kernels.compose import always, replaced_if


def project_in_turn(graph: Graph, nodes: Sequence[Node], later: Sequence[Node], state: State) -> State:
    """The same as :func:`pjax_core.copies.consensus.project`, with one large operation after the other.

    Where only one operation uses a parameter that is among the ``later`` nodes, both are projected together.
    """
    point = OpenState(graph, state)
    waiting = set(nodes)
    for node in nodes:
        waiting.remove(node)
        with jax.named_scope(graph.label(node)):
            if isinstance(node, Parameter):
                point.settle(node)
            elif isinstance(node, Operation):
                _project_in_a_loop(point, node, waiting, later)
    return point.state()


def _project_in_a_loop(point: OpenState, node: Operation, waiting: set[Node], later: Sequence[Node]) -> None:
    """Project one operation and move the copies of its sources, in a loop that runs once if that takes much memory."""
    settled = next((source for source in sources(node) if _may_settle(point, node, source, later)), None)

    def project_here(point: OpenState) -> None:
        if isinstance(settled, Parameter):
            changes = _project_and_settle(point, node, settled)
        else:
            changes = project_operation(point, node)
        for source, change in changes:
            point.move_copies(source, change)

    large = node.primitive.bilinear is not None or node.primitive.constrains_output
    cells = _replaced(point, node, settled, waiting) if large else []
    if not cells:
        project_here(point)
        return
    arrays = tuple(getattr(point, cell.before)[cell.key] for cell in cells)

    def projected(arrays: tuple[Array, ...]) -> tuple[Array, ...]:
        inner = point.copy()
        for cell, array in zip(cells, arrays, strict=True):
            getattr(inner, cell.before)[cell.key] = array
        project_here(inner)
        return tuple(getattr(inner, cell.after)[cell.key] for cell in cells)

    new = replaced_if(always(min(arrays, key=lambda array: array.size)), projected, arrays)
    point.targets.pop(node, None)
    for cell, array in zip(cells, new, strict=True):
        getattr(point, cell.after)[cell.key] = array


class _Cell(NamedTuple):
    """An array that a projection replaces: the attribute of a point that holds it before, that after, and the key."""

    before: str
    after: str
    key: Any


def _replaced(point: OpenState, node: Operation, settled: Node | None, waiting: set[Node]) -> list[_Cell]:
    """The arrays that the projection of an operation replaces; those that it only adds get their first values."""
    cells = [] if node.primitive.constrains_output else [_Cell(_mean_at(point, node), "values", node)]
    for source in sources(node):
        if isinstance(source, Parameter) and source is settled:
            cells += [_Cell("high", "high", source.index), _Cell("low", "low", source.index)]
        elif isinstance(source, Parameter):
            point.pending.setdefault(source.index, jnp.zeros_like(point.low[source.index]))
            cells.append(_Cell("pending", "pending", source.index))
        else:
            if not waiting.isdisjoint(point.graph.consumers[source]):
                point.targets.setdefault(source, point.values[source])  # others need the value that copies share
            cells.append(_Cell(_mean_at(point, source), "targets", source))
    return cells


def _mean_at(point: OpenState, node: Node) -> str:
    """Where a point holds the mean of the copies of a node's output."""
    return "targets" if node in point.targets else "values"


def _may_settle(point: OpenState, node: Operation, source: Node, later: Sequence[Node]) -> bool:
    """Whether a parameter can be projected together with the operation, as the only one that uses it."""
    if not isinstance(source, Parameter) or source in point.graph.regions:
        return False
    if node.primitive.project_in_place is None or source not in later:
        return False
    high, low = point.high[source.index], point.low[source.index]
    alone = list(point.graph.consumers[source]) == [node] and source.index not in point.pending
    one_dtype = len({high.dtype, low.dtype, *(slot.shape.dtype for slot in node.slots)}) == 1
    return alone and one_dtype and direct_slot(node, source) == 1


def _project_and_settle(point: OpenState, node: Operation, parameter: Parameter) -> list[tuple[Node, Array]]:
    """Project one operation together with its second input; the changes to the means of the copies of the first."""
    assert node.primitive.project_in_place is not None
    inputs, estimate = inputs_and_estimate(point, node)
    x_change, pair, output = node.primitive.project_in_place(
        inputs[0], inputs[1], point.low[parameter.index], estimate, moves_x=len(sources(node)) > 1, **node.settings
    )
    point.high[parameter.index], point.low[parameter.index] = pair
    point.values[node] = output
    others = [source for source in sources(node) if source is not parameter]
    return [(source, mean_change(point.graph, node, source, (x_change,), point.value)) for source in others]
