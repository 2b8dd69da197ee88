"""From a graph to its solution operators: the projections onto each colour, or each layer, of constraints.

After a projection onto a set of nodes, all copies of a node's output agree, and they still do when its consumers are
projected next.  So the state holds no copies: of each node the value that its copies share (``values``), or their
mean after its consumers have moved them (``targets``), whichever is still needed.  Parameters are held as
compensated pairs ``high + low``, since a step can move them by less than a rounding error of their value.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from pjax_core.arrays.meshes import full, shape_of_type
from pjax_core.arrays.serialization import exportable_dataclass
from pjax_core.copies.count import Projected, low_dtype, mean_change, sources, unread_elements
from pjax_core.graph.colour import Graph
from pjax_core.graph.computed import Fixed, with_computed
from pjax_core.graph.nodes import Constant, Data, Node, Operation, Parameter
from pjax_core.graph.sets import placed
from pjax_kernels.compose import add_to_pair, difference_of_pairs


@dataclass(frozen=True)
class Consensus:
    """No deviations: right where the copies agree before each projection, as in alternating and cyclic projections."""

    def project(self, node: Operation, shared: Sequence[Array], output: Array | None) -> Projected:
        """Project copies that all have the ``shared`` values."""
        changes, output = node.primitive.project_values(tuple(shared), output, **node.settings)
        return Projected(changes, output, None, None)

    def __str__(self) -> str:
        return "consensus"


@exportable_dataclass
@dataclass(frozen=True)
class State:
    """A point of the consensus form: ``pending`` by the places of parameters, ``values`` and ``targets`` of nodes.

    Places are strings, the keys that exported functions may have.

    Attributes:
        high: the parameters.
        low: what rounding took from them; ``high + low`` is their value.
        pending: mean changes of parameters whose own projection comes later.
        values: the value that all copies of a node's output share.
        targets: the mean of these copies once some have been moved.
        data: the data arrays.
    """

    high: Any
    low: Any
    pending: dict[str, Array]
    values: dict[str, Array]
    targets: dict[str, Array]
    data: tuple[Any, ...] | Fixed

    def changes(self, old: State) -> list[Array]:
        """What a change of the state is measured by: the differences from an old one, parameters in full precision."""
        parameters = jax.tree.map(difference_of_pairs, self.high, self.low, old.high, old.low)
        new_others, old_others = ((state.values, state.targets) for state in (self, old))
        return jax.tree.leaves((parameters, jax.tree.map(jnp.subtract, new_others, old_others)))

    @property
    def of_weights(self) -> list[bool]:
        """Which of the changes are those of parameters."""
        count = len(jax.tree.leaves(self.high))
        return [True] * count + [False] * (len(self.values) + len(self.targets))

    @property
    def truncation(self) -> dict[str, Array]:
        """The consensus form is exact."""
        return {}


Schedule = Sequence[Sequence[Node]]
"""Sets of nodes, projected one after the other; every node of the graph is in one of them."""


def initial_state(graph: Graph, params: Any, low: Any, data: tuple[Any, ...]) -> State:
    """The point where every copy has the value that the network computes."""
    return _evaluated(graph, *normalised(params, _no_low(params) if low is None else low), data).state()


def start(graph: Graph, params: Any, data: tuple[Any, ...]) -> Callable[[Node], Array]:
    """The values that the network computes."""
    return _evaluated(graph, params, _no_low(params), data).value


def _no_low(params: Any) -> Any:
    return jax.tree.map(lambda high: jnp.zeros_like(high, low_dtype(high.dtype)), params)


def _evaluated(graph: Graph, params: Any, low: Any, data: tuple[Any, ...]) -> OpenState:
    """The same point, opened; the pairs of parameters are kept as they are."""
    point = OpenState(graph, State(params, low, {}, {}, {}, with_computed(graph, data)))
    for node in graph.nodes:
        if isinstance(node, Operation) and node.shape is not None and not node.primitive.constrains_output:
            point.values[node] = node.start(point.value).astype(node.shape.dtype)
    return point


def normalised(high: Any, low: Any) -> tuple[Any, Any]:
    """Trees of pairs with all that ``high`` can hold in ``high``."""
    pairs = [add_to_pair(*pair) for pair in zip(jax.tree.leaves(high), jax.tree.leaves(low), strict=True)]
    structure = jax.tree.structure(high)
    return (
        jax.tree.unflatten(structure, [high for high, _ in pairs]),
        jax.tree.unflatten(structure, [low for _, low in pairs]),
    )


def project(graph: Graph, nodes: Sequence[Node], state: State) -> State:
    """Project onto the constraints of ``nodes``, no two of which are adjacent."""
    point = OpenState(graph, state)
    changes: list[tuple[Node, Array]] = []
    for node in nodes:
        with jax.named_scope(graph.label(node)):
            if isinstance(node, Parameter):
                point.settle(node)
            elif isinstance(node, Operation):
                changes += project_operation(point, node)
    for source, change in changes:
        point.move_copies(source, change)
    return point.state()


def at_boundary(graph: Graph, schedule: Schedule, state: State) -> State:
    """The state without what the next round of ``schedule`` will not read."""
    place = {node: i for i, nodes in enumerate(schedule) for node in nodes}
    value_read: set[str] = set()
    target_read: set[str] = set()
    for node in graph.nodes:
        for consumer in graph.consumers[node]:
            (value_read if place[consumer] < place[node] else target_read).add(graph.keys[node])
    values = state.values | state.targets
    pending = {
        str(node.index): full(shape_of_type(node.shape, low_dtype(node.shape.dtype)), 0)
        for node in graph.nodes
        if isinstance(node, Parameter) and node.shape is not None and graph.keys[node] in target_read
    }
    return replace(
        state,
        pending=pending | state.pending,
        values={i: value for i, value in state.values.items() if i in value_read},
        targets={i: values[i] for i in sorted(target_read) if i in values},
    )


class OpenState:
    """A state opened for one projection: its arrays by node."""

    def __init__(self, graph: Graph, state: State) -> None:
        self.graph = graph
        self.high, self.structure = jax.tree.flatten(state.high)
        self.low = jax.tree.leaves(state.low)
        self.pending = {int(i): array for i, array in state.pending.items()}
        self.values = {graph.nodes[int(i)]: array for i, array in state.values.items()}
        self.targets = {graph.nodes[int(i)]: array for i, array in state.targets.items()}
        self.data = state.data

    def state(self) -> State:
        """The state closed again."""
        keys = self.graph.keys
        return State(
            high=jax.tree.unflatten(self.structure, self.high),
            low=jax.tree.unflatten(self.structure, self.low),
            pending={str(i): array for i, array in self.pending.items()},
            values={keys[node]: array for node, array in self.values.items()},
            targets={keys[node]: array for node, array in self.targets.items()},
            data=self.data,
        )

    def copy(self) -> OpenState:
        """The same arrays, to be replaced apart from these."""
        return OpenState(self.graph, self.state())

    def value(self, node: Node) -> Array:
        """The value that the copies of a node's output share."""
        if isinstance(node, Constant):
            return node.value
        if isinstance(node, Data):
            return jax.tree.leaves(self.data)[node.index]
        if isinstance(node, Parameter):
            high, low = self.high[node.index], self.low[node.index]
            return high if high.dtype == low.dtype else high + low
        return self.values[node]

    def estimate(self, node: Operation) -> Array | None:
        """The mean of the copies of a node's output, forgotten afterwards; None for an output constraint."""
        if node.primitive.constrains_output:
            return None
        value = self.values.pop(node, None)
        return self.targets.pop(node, value)

    def settle(self, parameter: Parameter) -> None:
        """Make the mean of a parameter's copies its value, or the nearest point of its set."""
        change = self.pending.pop(parameter.index, None)
        pair = self.high[parameter.index], self.low[parameter.index]
        if change is not None:
            pair = add_to_pair(*pair, change)
        if parameter in self.graph.regions:
            pair = placed(self.graph.regions[parameter], pair)
        self.high[parameter.index], self.low[parameter.index] = pair

    def move_copies(self, node: Node, change: Array) -> None:
        """Add a change to the mean of the copies of a node's output."""
        if isinstance(node, Parameter):
            pending = self.pending.get(node.index)
            change = change.astype(self.low[node.index].dtype)
            self.pending[node.index] = change if pending is None else pending + change
        else:
            mean = self.targets[node] if node in self.targets else self.values[node]
            self.targets[node] = (mean + change).astype(mean.dtype)


def project_operation(point: OpenState, node: Operation) -> list[tuple[Node, Array]]:
    """Project one operation; the changes it makes to the means of its sources' copies."""
    inputs, estimate = inputs_and_estimate(point, node)
    projected = Consensus().project(node, inputs, estimate)
    if projected.output is not None and node.shape is not None:
        point.values[node] = projected.output.astype(node.shape.dtype)
    return [
        (source, mean_change(point.graph, node, source, projected.changes, point.value)) for source in sources(node)
    ]


def inputs_and_estimate(point: OpenState, node: Operation) -> tuple[tuple[Array, ...], Array | None]:
    """The values that the copies of an operation's inputs share, and the estimate of its output."""
    inputs = tuple(slot.read(point.value) for slot in node.slots)
    estimate = point.estimate(node)
    unread = unread_elements(point.graph, node, point.value)
    if estimate is not None and unread is not None:
        estimate = jnp.where(unread, node.primitive.forward(*inputs, **node.settings), estimate)
    return inputs, estimate
