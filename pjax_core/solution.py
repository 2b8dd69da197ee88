"""From a graph to its solution operators: the projections onto each colour, or each layer, of constraints.

After a projection onto a set of nodes, all copies of a node's output agree, and they still do when its consumers are
projected next.  So the state holds no copies: of each node what its copies share (``values``), or their mean after its
consumers have moved them (``targets``), whichever is still needed.

**Both are changes since the start**, where the network computed every value from others: an array of its own, never
added to a value of size 1 and taken from it again, as a change may be far below the rounding of its value.  With ``V``
the values at the start and ``D`` the changes since, the output of an operation ``f`` has beyond what follows from its
inputs

    (V_z + D_z) - f(V_x + D_x)  =  D_z - (f(V_x + D_x) - f(V_x)),          as V_z = f(V_x) to begin with,

and the bracket, the operation's growth, is made of changes alone: for dot products ``F(D_x, W + D_W) + F(X, D_W)``.
This residual is exact after any number of steps, and all that a projection needs to be precise; the values themselves
enter as coefficients.  Where nothing has changed yet there is no array: the first sweep over a network forms no
product to compare with.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from pjax_core.copies import Consensus, Shared, low_dtype
from pjax_core.graph import Computed, Constant, Data, Graph, Node, Operation, Parameter, Slot, is_fixed, is_index
from pjax_core.layers import Layer, with_layers
from pjax_core.meshes import full, shape_of_type
from pjax_core.primitive import Batching, moved
from pjax_core.serialization import exportable_dataclass
from pjax_core.trace.jaxpr import trace
from pjax_kernels.compose import add_to_pair


@dataclass(frozen=True)
class Problem:
    """A feasibility problem: find parameters such that ``function(params, *data)`` can hold.

    Two problems are the same if their functions are, as for :func:`jax.jit`: a lambda made in a loop is a new one.
    ``layer`` says how layers are constraints of their own; None for one constraint for each dot product.
    """

    function: Callable[..., Any]
    layer: Layer | None = None
    _graphs: dict[Any, Graph] = field(default_factory=dict, init=False, repr=False, compare=False)

    def graph(self, params: Any, data: tuple[Any, ...] | Fixed) -> Graph:
        """The graph for arguments of these shapes, traced once and kept."""
        given = data.given if isinstance(data, Fixed) else data
        leaves, structure = jax.tree.flatten((params, given))
        config: Any = jax.config
        settings = (config.jax_enable_x64, config.jax_numpy_dtype_promotion)
        key = (structure, tuple(map(jax.typeof, leaves)), settings)
        if key not in self._graphs:
            graph = self._traced(params, given)
            if graph.holds_tracers:  # which belong to the function that is traced just now
                return graph
            self._graphs[key] = graph
        return self._graphs[key]

    def _traced(self, params: Any, data: tuple[Any, ...]) -> Graph:
        graph = trace(self.function, params, data)
        return graph if self.layer is None else with_layers(graph, self.layer)

    def __reduce__(self) -> tuple[type[Problem], tuple[Callable[..., Any], Layer | None]]:
        return Problem, (self.function, self.layer)


@exportable_dataclass
@dataclass(frozen=True)
class Fixed:
    """The data that were ``given``, and what is ``computed`` from them once."""

    given: tuple[Any, ...]
    computed: tuple[Array, ...]


def with_computed(graph: Graph, data: tuple[Any, ...]) -> tuple[Any, ...] | Fixed:
    """The data, and beside them what operations read of functions of data."""
    if not graph.computed:
        return data
    leaves = jax.tree.leaves(data)
    known: dict[Node, Array] = {}

    def value(node: Node) -> Array:
        if isinstance(node, Constant):
            return node.value
        if isinstance(node, Computed):
            if node not in known:
                known[node] = node.function(*(slot.read(value) for slot in node.slots))
            return known[node]
        assert isinstance(node, Data)
        return leaves[node.index]

    return Fixed(data, tuple(value(node) for node in graph.computed))


def require_problem(problem: Any) -> None:
    """Raise ``TypeError`` unless the argument is a problem."""
    if not isinstance(problem, Problem):
        raise TypeError(
            f"problem is of type {type(problem).__name__}; pass pj.feasibility(function) before params and data"
        )


@functools.partial(exportable_dataclass, static=["parameters"])
@dataclass(frozen=True)
class State:
    """A point of the consensus form; dictionaries are indexed by the places of nodes in the graph.

    Places are strings, the keys that exported functions may have.

    Attributes:
        high: the parameters at the start.
        start_low: what rounding had taken from them; None for nothing.
        start: the outputs that operations had at the start, without those that follow from others element by element.
        values: by how much the value that all copies of a node's output share has changed since.
        targets: by how much the mean of these copies has, once some have been moved.
        data: the data arrays.
        parameters: the places of the parameters.
        units: for each node the whole number n for which its changes are held in units of ``2^n``; None for 0.
            Without, changes fall below the smallest float32 ten or twenty layers below the output.
    """

    high: Any
    start_low: Any
    start: dict[str, Array]
    values: dict[str, Array]
    targets: dict[str, Array]
    data: tuple[Any, ...] | Fixed
    parameters: tuple[str, ...]
    units: dict[str, Array] | None = None

    def changes(self, old: State) -> list[Array]:
        """What a change of the state is measured by: the differences from an old one."""
        targets, old_targets = (
            {i: array for i, array in state.targets.items() if i not in self.parameters} for state in (self, old)
        )
        return jax.tree.leaves(jax.tree.map(jnp.subtract, (self.values, targets), (old.values, old_targets)))

    @property
    def moved(self) -> Any:
        """By how much the parameters have moved."""
        return jax.tree.unflatten(jax.tree.structure(self.high), [self.values[i] for i in self.parameters])

    @property
    def low(self) -> Any:
        """The parameters, as differences from ``high``."""
        return with_low(self.moved, self.start_low)

    @property
    def truncation(self) -> dict[str, Array]:
        """The consensus form is exact."""
        return {}


def with_low(moved: Any, low: Any) -> Any:
    """Changes of parameters and what rounding had taken from these, None for nothing, added up."""
    return moved if low is None else jax.tree.map(jnp.add, moved, low)


LINEAR = -60
"""Changes that are below 2 to this power of what they change leave every projection linear in them."""

Schedule = Sequence[Sequence[Node]]
"""Sets of nodes, projected one after the other; every node of the graph is in one of them."""


def initial_state(graph: Graph, params: Any, low: Any, data: tuple[Any, ...]) -> State:
    """The point where every copy has the value that the network computes."""
    if low is not None:
        params, low = normalised(params, low)
    parameters = sorted((node.index, key) for node, key in graph.keys.items() if isinstance(node, Parameter))
    point = OpenState(
        graph, State(params, low, {}, {}, {}, with_computed(graph, data), tuple(i for _, i in parameters))
    )
    for node in graph.nodes:
        if isinstance(node, Operation) and not node.primitive.constrains_output and not _follows(node):
            point.start[node] = _start(node, point.start_of)
    return point.state()


def _follows(node: Operation) -> bool:
    """Whether the output at the start is computed anew where it is needed, element by element: that takes no memory."""
    return node.primitive.batching is Batching.BROADCAST and node.unrolled is None


def _start(node: Operation, start_of: Callable[[Node], Array]) -> Array:
    """What the network computes, in its dtype."""
    assert node.shape is not None
    return node.start(start_of).astype(node.shape.dtype)


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
    value_read: set[str] = set(state.parameters)
    target_read: set[str] = set()
    for node in graph.nodes:
        for consumer in graph.consumers[node]:
            (value_read if place[consumer] < place[node] else target_read).add(graph.keys[node])

    def change(i: str, *where: dict[str, Array]) -> Array:
        shape = graph.nodes[int(i)].shape
        assert shape is not None
        found = [arrays[i] for arrays in where if i in arrays]
        return found[0] if found else nothing(shape)

    return replace(
        state,
        values={i: change(i, state.values) for i in sorted(value_read)},
        targets={i: change(i, state.targets, state.values) for i in sorted(target_read)},
    )


def nothing(shape: jax.ShapeDtypeStruct) -> Array:
    """No change of an array of this shape."""
    return full(shape_of_type(shape, low_dtype(shape.dtype)), 0)


class OpenState:
    """A state opened for one projection: its arrays by node.  Where a change is missing, there has been none."""

    def __init__(self, graph: Graph, state: State) -> None:
        self.graph = graph
        self.closed = state
        self.start, self.values, self.targets = (
            {graph.nodes[int(i)]: array for i, array in arrays.items()}
            for arrays in (state.start, state.values, state.targets)
        )
        self.units = None if state.units is None else {graph.nodes[int(i)]: n for i, n in state.units.items()}

    def state(self) -> State:
        """The state closed again."""
        keys = self.graph.keys
        start, values, targets = (
            {keys[node]: array for node, array in arrays.items()} for arrays in (self.start, self.values, self.targets)
        )
        return replace(self.closed, start=start, values=values, targets=targets)

    def copy(self) -> OpenState:
        """The same arrays, to be replaced apart from these."""
        return OpenState(self.graph, self.state())

    def start_of(self, node: Node) -> Array:
        """The value at the start."""
        return start_of(self.closed, self.start, node)

    def estimate(self, node: Operation) -> Array | None:
        """The change of the mean of the copies of a node's output, forgotten afterwards; None for no change."""
        value = self.values.pop(node, None)
        return scaled(self.targets.pop(node, value), self.scale(node, node))

    def scale(self, node: Node, operation: Operation) -> Array | None:
        """What turns changes of a node in its units into those that an operation is projected with.

        These are the true ones, or where the true ones of its output are tiny, larger: the operation is linear in them
        then.
        """
        if self.units is None:
            return None
        exponent = self.units[node]
        if not operation.primitive.constrains_output:
            own = self.units[operation]
            exponent = exponent - own + jnp.maximum(own, LINEAR)
        return jnp.ldexp(jnp.ones((), jnp.result_type(float)), exponent)

    def settle(self, parameter: Parameter) -> None:
        """Make the mean of a parameter's copies its value."""
        if parameter in self.targets:
            self.values[parameter] = self.targets.pop(parameter)

    def move_copies(self, node: Node, change: Array) -> None:
        """Add a change to the mean of the copies of a node's output."""
        assert node.shape is not None
        change = change.astype(low_dtype(node.shape.dtype))
        self.targets[node] = moved(change, self.targets.get(node, self.values.get(node)))


def start_of(state: Any, outputs: Mapping[Node, Array], node: Node) -> Array:
    """The value of a node at the start of a state, of whose operations these are the ``outputs``."""
    if isinstance(node, Constant):
        return node.value
    if isinstance(node, Data):
        return jax.tree.leaves(state.data)[node.index]
    if isinstance(node, Parameter):
        high, low = (jax.tree.leaves(tree) for tree in (state.high, state.start_low))
        narrow = low and low[node.index].dtype != high[node.index].dtype
        return high[node.index] + low[node.index] if narrow else high[node.index]
    assert isinstance(node, Operation)
    if node not in outputs and _follows(node):
        return _start(node, functools.partial(start_of, state, outputs))
    return outputs[node]


def project_operation(point: OpenState, node: Operation) -> list[tuple[Node, Array]]:
    """Project one operation; the changes it makes to the means of its sources' copies."""
    projected = Consensus().project(node, *inputs_and_estimate(point, node))
    if projected.output is not None:
        point.values[node] = unscaled(projected.output, point.scale(node, node))
    if not projected.changes:
        return []
    means = (
        (source, mean_change(point.graph, node, source, projected.changes, point.start_of)) for source in sources(node)
    )
    return [(source, unscaled(mean, point.scale(source, node))) for source, mean in means]


def scaled(change: Array | None, scale: Array | None) -> Array | None:
    """A change in other units; None for no change, or for the same units."""
    return change if change is None or scale is None else change * scale.astype(change.dtype)


def unscaled(change: Array, scale: Array | None) -> Array:
    """The change back in its own units."""
    return change if scale is None else change * (1 / scale).astype(change.dtype)


def inputs_and_estimate(point: OpenState, node: Operation) -> tuple[list[Shared], Shared | None, Array | None]:
    """What the copies of an operation's inputs share, the estimate of its output, and where that is unread."""

    def change(source: Node) -> Array | None:
        found = point.values.get(source)
        return found if found is None else scaled(found, point.scale(source, node))

    inputs = [Shared(slot.read(point.start_of), change_of(slot, point.start_of, change)) for slot in node.slots]
    if node.primitive.constrains_output:
        return inputs, None, None
    unread = unread_elements(point.graph, node, point.start_of)
    return inputs, Shared(point.start_of(node), point.estimate(node)), unread


def change_of(slot: Slot, start_of: Callable[[Node], Array], changes: Callable[[Node], Array | None]) -> Array | None:
    """The change of a slot's value from those of its sources; None if none of them has changed."""
    if all(changes(source) is None for source in slot.sources):
        return None

    def change(source: Node) -> Array:
        found = changes(source)
        if found is not None:
            return found
        assert source.shape is not None
        return start_of(source) if is_index(source) else nothing(source.shape)

    return slot.read(change)


def sources(node: Operation) -> list[Node]:
    """The nodes whose outputs an operation holds copies of, each once, without those that never move."""
    return list(dict.fromkeys(source for slot in node.slots for source in slot.sources if not is_fixed(source)))


def may_be_unread(graph: Graph, node: Operation) -> bool:
    """Whether no consumer may hold a copy of some elements of the output, so that they are free."""
    if node.shape is None or node.primitive.constrains_output:
        return False
    return _chosen_by_data(graph, node) or unread_elements(graph, node, _no_data) is not None


def unread_elements(graph: Graph, node: Operation, values: Callable[[Node], Array]) -> Array | None:
    """Which elements of the output no consumer holds a copy of; None if there are none.

    ``values`` gives the data that select elements.
    """
    consumers = graph.consumers[node]
    if (
        node.shape is None
        or node.primitive.constrains_output
        or any(direct_slot(consumer, node) is not None for consumer in consumers)
    ):
        return None
    if _chosen_by_data(graph, node):
        chosen = sum(_sum_over_copies(consumer, node, None, values) for consumer in consumers)
        return jnp.broadcast_to(jnp.asarray(chosen) <= 0, node.shape.shape)
    with jax.ensure_compile_time_eval():
        copies = np.asarray(sum(_sum_over_copies(consumer, node, None, _no_data) for consumer in consumers))
    return None if (copies > 0).all() else jnp.asarray(np.broadcast_to(copies <= 0, node.shape.shape))


def _chosen_by_data(graph: Graph, node: Operation) -> bool:
    """Whether data say which elements of the output are read."""
    return any(
        isinstance(source, Data) and is_index(source)
        for consumer in graph.consumers[node]
        for slot in consumer.slots
        if node in slot.sources
        for source in slot.sources
    )


def _no_data(node: Node) -> Array:
    """The values of indices that are known while tracing."""
    assert isinstance(node, Constant)
    return node.value


def mean_change(
    graph: Graph, consumer: Operation, source: Node, changes: Sequence[Array], values: Callable[[Node], Array]
) -> Array:
    """What ``changes`` of one consumer's inputs add to the mean over all copies of ``source``.

    Each consumer has the same weight, and within it each copy (paper, section 3.1).
    """
    consumers = graph.consumers[source]
    direct = direct_slot(consumer, source)
    if direct is not None and (len(consumers) == 1 or all(direct_slot(c, source) is not None for c in consumers)):
        return changes[direct] * (1 / len(consumers)) if len(consumers) > 1 else changes[direct]
    transposed = _transposed_slot(consumer, source)
    if transposed is not None and len(consumers) == 1:
        return consumer.slots[transposed].sum_over_copies(source, changes[transposed], values)
    copies = [_sum_over_copies(c, source, None, values) for c in consumers]
    holders = sum((count > 0).astype(count.dtype) for count in copies)
    own = copies[consumers.index(consumer)]
    return _sum_over_copies(consumer, source, changes, values) / (jnp.maximum(own, 1) * jnp.maximum(holders, 1))


def direct_slot(consumer: Operation, source: Node) -> int | None:
    """The place of the only slot that holds ``source``, if it does so unchanged and all of it."""
    places = [i for i, slot in enumerate(consumer.slots) if source in slot.sources]
    if len(places) != 1 or consumer.slots[places[0]].view is not None:
        return None
    count = consumer.primitive.copies(*(slot.shape for slot in consumer.slots), **consumer.settings)[places[0]]
    return places[0] if np.all(count) else None


def _transposed_slot(consumer: Operation, source: Node) -> int | None:
    """The place of the only slot that holds ``source``, if it does so with its axes permuted, as weights (out, in)."""
    places = [i for i, slot in enumerate(consumer.slots) if source in slot.sources]
    view = consumer.slots[places[0]].view
    only = len(places) == len(consumer.slots[places[0]].sources) == 1
    return places[0] if only and view is not None and {step.name for step in view.steps} == {"transpose"} else None


def _sum_over_copies(
    consumer: Operation, source: Node, changes: Sequence[Array] | None, values: Callable[[Node], Array]
) -> Array:
    """The sum of changes over the copies of each element of ``source``, or with None the number of copies."""
    assert source.shape is not None
    total: Any = jnp.zeros(source.shape.shape, low_dtype(source.shape.dtype))
    multiplicities = consumer.primitive.copies(*(slot.shape for slot in consumer.slots), **consumer.settings)
    for place, (slot, multiplicity) in enumerate(zip(consumer.slots, multiplicities, strict=True)):
        if source in slot.sources:
            copies = jnp.ones(slot.shape.shape, total.dtype) if changes is None else changes[place]
            copies = jnp.asarray(multiplicity, total.dtype) * copies
            total = total + slot.sum_over_copies(source, copies, values, counts=changes is None).astype(total.dtype)
    return total
