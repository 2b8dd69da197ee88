"""A metric in a graph: operations that read what their inputs and their output cost, and are projected by that."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from pjax_core.arrays.meshes import Shape
from pjax_core.graph.graph import Graph
from pjax_core.graph.nodes import Constant, Data, Node, Operation, Slot, is_fixed, is_index, of_node
from pjax_core.operations import costs, primitives


class Cost(NamedTuple):
    """What is known of a cost before it is computed: its ``key``, which is the number if that is known, and its shape.

    Costs of one key are equal.
    """

    key: Hashable
    shape: tuple[int, ...]


ONE = Cost(1.0, ())

Values = Callable[[Node], Array]
"""The cost of a node's value."""


class _Held(NamedTuple):
    """What an operation holds: a view of nodes, and its cost."""

    slot: Slot
    cost: Cost

    def read(self, values: Values) -> Array:
        """The cost, laid out as the view where it is an array."""
        if self.cost.shape == ():
            return values(_that_count(self.slot)[0])

        def of_source(source: Node) -> Array:
            return values(source) if is_index(source) else jnp.broadcast_to(values(source), source.shape.shape)

        return self.slot.read(of_source)


def with_costs(graph: Graph, of: Mapping[Node, Cost], leaves: int, values: Callable[[Any, Any], Values]) -> Graph:
    """The graph in which values cost what ``values(params, data)`` will say; data have so many ``leaves``.

    Operations that hold values of one cost are left as they are: they are projected as without costs.
    """
    read: list[_Held] = []
    rebuilt: dict[Node, Operation] = {}
    for node in graph.nodes:
        if isinstance(node, Operation):
            held = _held(node, of)
            if not _is_common(node, [one.cost for one in held]):
                _require_costs(graph, node, held)
                first = leaves + len(graph.computed) + len(read)
                slots = tuple(_slot(graph.label(node), first + i, one.cost) for i, one in enumerate(held))
                primitive = costs.with_costs(node.primitive, len(node.slots))
                rebuilt[node] = replace(node, primitive=primitive, slots=(*node.slots, *slots))
                read += held
    if not read:
        return graph

    def of_slots(params: Any, data: Any) -> tuple[Array, ...]:
        found = values(params, data)
        return tuple(one.read(found) for one in read)

    return replace(
        graph,
        nodes=tuple(rebuilt.get(node, node) for node in graph.nodes),
        consumers={n: tuple(rebuilt.get(user, user) for user in users) for n, users in graph.consumers.items()},
        costs=of_slots,
    )


def source_of_cost(node: Node) -> Node:
    """The node of which a node has the cost: an identity that was inserted has that of its source."""
    while isinstance(node, Operation) and node.primitive is primitives.identity and node.name.startswith("identity("):
        node = node.slots[0].sources[0]
    return node


def _held(node: Operation, of: Mapping[Node, Cost]) -> list[_Held]:
    """What an operation holds of its inputs that move, and last of its output if it has one."""
    slots = [*node.slots[: node.primitive.moving_inputs(len(node.slots))]]
    if not node.primitive.constrains_output:
        slots.append(of_node(node))
    return [_Held(slot, _cost(slot, of)) for slot in slots]


def _is_common(node: Operation, found: Sequence[Cost]) -> bool:
    """Whether all is known to cost the same number, of an output constraint 1."""
    return all(cost.shape == () for cost in found) and (
        {cost.key for cost in found} == {1.0} if node.primitive.constrains_output else len({*found}) == 1
    )


def _cost(slot: Slot, of: Mapping[Node, Cost]) -> Cost:
    """What is known of the cost of a view."""
    found = {of.get(source_of_cost(source), ONE) for source in _that_count(slot)}
    if len(found) == 1:
        (cost,) = found
        return cost if cost.shape == () else Cost((cost.key, *map(id, slot.steps)), slot.shape.shape)
    return Cost((slot.sources, *map(id, slot.steps)), slot.shape.shape)


def _that_count(slot: Slot) -> list[Node]:
    """The sources of a view whose costs are its own: constants cost what stands beside them."""
    moving = [source for source in slot.sources if not is_index(source)]
    return [source for source in moving if not isinstance(source, Constant)] or moving


def _slot(label: str, place: int, cost: Cost) -> Slot:
    """The slot of a cost, kept among the data."""
    return of_node(Data(f"cost in {label}", Shape(cost.shape, jnp.result_type(float)), place))


def _require_costs(graph: Graph, node: Operation, held: Sequence[_Held]) -> None:
    """Raise ``ValueError`` unless the operation can be projected with these costs exactly."""
    primitive, label = node.primitive, graph.label(node)
    names = [
        ", ".join(source.name if is_fixed(source) else graph.label(source) for source in one.slot.sources)
        for one in held
    ]
    found = [one.cost for one in held]
    if not costs.takes_costs(primitive):
        wanted = "its input must cost 1" if primitive.constrains_output else "these must cost the same"
        raise ValueError(
            f"metric: {label} has no projection with costs, so that {wanted}: {', '.join(dict.fromkeys(names))}"
        )
    for places in primitive.alike:
        if len({found[place].key for place in places}) > 1:
            raise ValueError(f"metric: in {label} these must cost the same: {', '.join(names[i] for i in places)}")
    if not costs.takes_arrays(primitive):
        for name, cost in zip(names, found, strict=True):
            if cost.shape != ():
                raise ValueError(
                    f"metric: {label} takes one number for the cost of each of its inputs and of its output, but that "
                    f"of {name} is of shape {cost.shape}"
                )
