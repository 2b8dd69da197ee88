"""From a graph to its solution operators: the projections onto each colour, or each layer, of constraints.

After a projection onto a set of nodes, all copies of a node's output agree, and they still do when its consumers are
projected next.  So the state holds no copies: of each node by how much the value that its copies share has changed
since the start (``values``), or their mean after its consumers have moved them (``targets``), whichever is still
needed.  Both are far smaller than the value, which would round them away (:mod:`pjax_core.copies.changes`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import Array

from pjax_core.arrays.meshes import is_open
from pjax_core.arrays.norms import Norms
from pjax_core.arrays.serialization import exportable_dataclass
from pjax_core.copies.changes import Changes, nothing
from pjax_core.copies.count import low_dtype
from pjax_core.copies.span import InSpan, in_spans
from pjax_core.graph.computed import Fixed, with_computed
from pjax_core.graph.graph import Graph
from pjax_core.graph.nodes import Node, Operation, Parameter, fixed_value, is_fixed, sources_of
from pjax_kernels.compose import add_to_pair, always, difference_of_pairs


@exportable_dataclass
@dataclass(frozen=True)
class State:
    """A point of the consensus form: by the places of nodes, changes since the start.

    Places are strings, the keys that exported functions may have.

    Attributes:
        high: the parameters at the start; those in sets as they are.
        lows: what to add for their value: by how much they have changed, or what rounding took.
        origin: those in sets at the start.
        starts: what the network computed at the start.
        values: by how much the value that all copies of a node's output share has changed.
        targets: by how much the mean of these copies has, once some have been moved; of parameters likewise.
        spans: of parameters that data move what they move along; ``lows`` are those at the start, one 0 where there is
            nothing to add, and ``values`` the changes since.
        data: the data arrays.
        parameters: the places of the parameters.
    """

    high: Any
    lows: Any
    origin: dict[str, Array]
    starts: dict[str, Array]
    values: dict[str, Any]
    targets: dict[str, Any]
    spans: dict[str, InSpan]
    data: tuple[Any, ...] | Fixed
    parameters: tuple[str, ...] = field(metadata={"static": True})
    truncation: ClassVar[dict[str, Array]] = {}  # the consensus form is exact

    @property
    def low(self) -> Any:
        """What to add to ``high`` for the parameters' value."""
        return with_spans(self, self.values)

    def changes(self, old: State) -> list[Array | Norms]:
        """What a change of the state is measured by: the differences from an old one."""
        differences = jax.tree.map(jnp.subtract, _held(self), _held(old))
        sizes = {i: high.size for i, high in zip(self.parameters, jax.tree.leaves(self.high), strict=True)}
        return [
            Norms(difference.norms(), sizes[i]) if i in self.spans else difference
            for arrays in differences
            for i, difference in arrays.items()
        ]

    @property
    def of_weights(self) -> list[bool]:
        """Which of the changes are those of parameters."""
        weights, *others = _held(self)
        return [True] * len(weights) + [False] * sum(map(len, others))


def _held(state: State) -> tuple[dict[str, Any], ...]:
    """The changes of parameters, of operations' outputs, and of means."""
    weights = dict(zip(state.parameters, jax.tree.leaves(state.lows), strict=True))
    weights |= {i: state.values[i] for i in state.spans}
    return weights, {i: change for i, change in state.values.items() if i not in weights}, state.targets


def with_spans(state: State, changes: Mapping[str, Any]) -> Any:
    """What to add to the parameters at the start, with these changes of those that data move."""
    lows = dict(zip(state.parameters, jax.tree.leaves(state.lows), strict=True))
    highs = dict(zip(state.parameters, jax.tree.leaves(state.high), strict=True))
    for i, span in state.spans.items():
        lows[i] = lows[i] + span.of_weights(highs[i] + lows[i], changes[i], state.data)
    return jax.tree.unflatten(jax.tree.structure(state.lows), list(lows.values()))


Schedule = Sequence[Sequence[Node]]
"""Sets of nodes, projected one after the other; every node of the graph is in one of them."""


def start(graph: Graph, params: Any, data: tuple[Any, ...]) -> Callable[[Node], Array]:
    """The value of each node as the network computes it."""
    fixed = with_computed(graph, params, data)
    return start_of(jax.tree.leaves(params), fixed, starts_of(graph, params, fixed))


def starts_of(
    graph: Graph, params: Any, data: tuple[Any, ...] | Fixed, known: Mapping[Node, Array] | None = None
) -> dict[Node, Array]:
    """The value of each operation as the network computes it, from data with what is computed of them alone."""
    starts = dict(known or {})
    value = start_of(jax.tree.leaves(params), data, starts)
    together: dict[Callable[..., Any], Sequence[Array]] = {}  # the states of a loop are of one computation
    for node in graph.nodes:
        if node in starts or not isinstance(node, Operation) or node.primitive.constrains_output:
            continue
        if node.unrolled is None:
            starts[node] = node.start(value)
        else:
            loop = node.unrolled
            if loop.function not in together:
                together[loop.function] = loop.read(value)
            starts[node] = together[loop.function][loop.place].astype(node.shape.dtype)
    return starts


def start_of(of_parameters: list[Array], data: Any, starts: dict[Node, Array]) -> Callable[[Node], Array]:
    """The value of each node at the start; what is not in ``starts`` is computed each time."""
    of_data = jax.tree.leaves(data)

    def value(node: Node) -> Array:
        if is_fixed(node):
            return fixed_value(node, of_data)
        if isinstance(node, Parameter):
            return of_parameters[node.index]
        if node in starts:
            return starts[node]
        assert isinstance(node, Operation)
        return node.start(value)

    return value


def kept(starts: dict[Node, Array]) -> dict[Node, Array]:
    """Without what follows from others that are kept at the cost of a sum; loops refer to their states."""
    states = {node.feedback for node in starts if isinstance(node, Operation)}
    left_out: set[Node] = set()
    for node in starts:
        is_sum = isinstance(node, Operation) and node.primitive.common_move is not None
        if is_sum and node not in states and left_out.isdisjoint(sources_of(node)):
            left_out.add(node)
    return {node: start for node, start in starts.items() if node not in left_out}


def initial_state(graph: Graph, params: Any, low: Any, data: tuple[Any, ...]) -> State:
    """The point where every copy has the value that the network computes; a ``low`` part belongs to the parameters."""
    high, moved = normalised(params, low)
    fixed = with_computed(graph, high, data)
    leaves = jax.tree.leaves(high)
    held = in_spans(graph, start_of(leaves, fixed, {}))
    known = products(graph, held)
    starts = starts_of(graph, high, fixed, known)
    lows = jax.tree.leaves(moved)
    if low is None:
        for parameter in held:
            lows[parameter.index] = jnp.zeros((), lows[parameter.index].dtype)
    state = State(
        high,
        jax.tree.unflatten(jax.tree.structure(high), lows),
        origin={graph.keys[parameter]: leaves[parameter.index] for parameter in graph.regions},
        starts=graph.by_key(kept({node: start for node, start in starts.items() if node not in known})),
        values={graph.keys[parameter]: span.nothing() for parameter, span in held.items()},
        targets={},
        spans=graph.by_key(held),
        data=fixed,
        parameters=tuple(graph.keys[parameter] for parameter in graph.parameters),
    )
    if low is None:
        return state
    changes = opened(graph, state)
    changes.follow(starts)
    return closed(changes, state)


def products(graph: Graph, spans: Mapping[Parameter, InSpan]) -> dict[Node, Array]:
    """The outputs at the start of the operations whose weights are held in spans."""
    return {graph.consumers[weights][0]: held.span.with_weights for weights, held in spans.items()}


def normalised(high: Any, low: Any) -> tuple[Any, Any]:
    """Trees of pairs with all that ``high`` can hold in ``high``; None is a ``low`` of zeros."""
    if low is None:
        return high, jax.tree.map(lambda array: jnp.zeros_like(array, low_dtype(array.dtype)), high)
    pairs = jax.tree.map(add_to_pair, high, low)
    return jax.tree.transpose(jax.tree.structure(high), jax.tree.structure((0, 0)), pairs)


LARGE = 2**18
"""Entries of an array that is worth waiting for: the cores share work on it, smaller ones they compute side by side."""


def project(graph: Graph, sets: Schedule, state: State, large: int = LARGE) -> State:
    """Project onto the constraints of one set after the other, in none of which two are adjacent."""
    changes = opened(graph, state)
    project_changes(changes, sets, large)
    return closed(changes, state)


def project_changes(changes: Changes, sets: Iterable[Sequence[Node]], large: int = LARGE) -> None:
    """The same of changes, each operation of a set with a ``large`` output before those that follow."""
    start_of = changes.start_of
    for nodes in sets:
        if sum(isinstance(node, Operation) for node in nodes) > 1:
            changes.start_of = start_of  # the first of several need not wait for the last of the set before
        for node in nodes:
            with jax.named_scope(changes.graph.label(node)):
                changes.project(node)
            if node in changes.values and isinstance(node, Operation):
                changes.start_of = values_after(changes.values[node], start_of, large)


def values_after(array: Array, start_of: Callable[[Node], Array], large: int = LARGE) -> Callable[[Node], Array]:
    """Values at the start, to be read once the array is computed if it is ``large``.

    XLA's compiler for CPUs begins with all sums and products that need no other, and would hold those of all layers at
    a time.
    """
    if jax.default_backend() != "cpu" or jax.device_count() > 1 or is_open(jax.typeof(array)) or array.size < large:
        return start_of
    computed = always(array.ravel()[:1])

    def after(node: Node) -> Array:
        start = start_of(node)
        return start if is_fixed(node) else jnp.where(computed, start, jnp.zeros_like(start))

    return after


def opened(graph: Graph, state: State) -> Changes:
    """The changes of a state, by node."""
    starts, values, targets, spans = map(graph.by_node, (state.starts, state.values, state.targets, state.spans))
    starts |= products(graph, spans)
    at_start, lows = jax.tree.leaves(state.high), jax.tree.leaves(state.lows)
    for parameter in graph.parameters:
        values.setdefault(parameter, lows[parameter.index])
        if parameter in graph.regions:
            pair = at_start[parameter.index], lows[parameter.index]
            at_start[parameter.index] = state.origin[graph.keys[parameter]]
            values[parameter] = difference_of_pairs(*pair, at_start[parameter.index], jnp.zeros_like(pair[1]))
    changes = Changes(graph, start_of(at_start, state.data, starts))
    changes.values, changes.targets = values, targets
    changes.spans = {parameter: held.span for parameter, held in spans.items()}
    return changes


def closed(changes: Changes, state: State) -> State:
    """The state with these changes in place of its own."""
    graph = changes.graph
    highs, lows = jax.tree.leaves(state.high), jax.tree.leaves(state.lows)
    for parameter in graph.parameters:
        if parameter in changes.placed:
            highs[parameter.index], lows[parameter.index] = changes.placed[parameter]
        elif parameter in changes.values and parameter not in graph.regions and parameter not in changes.spans:
            lows[parameter.index] = changes.values[parameter]
    structure = jax.tree.structure(state.high)
    values = {n: change for n, change in changes.values.items() if isinstance(n, Operation) or n in changes.spans}
    return replace(
        state,
        high=jax.tree.unflatten(structure, highs),
        lows=jax.tree.unflatten(structure, lows),
        values=graph.by_key(values),
        targets=graph.by_key(changes.targets),
    )


def at_boundary(graph: Graph, schedule: Schedule, state: State) -> State:
    """The state without what the next round of ``schedule`` will not read, and with zeros where nothing has changed."""
    changes = opened(graph, state)
    place = {node: i for i, nodes in enumerate(schedule) for node in nodes}
    values: dict[Node, Any] = {parameter: changes.values[parameter] for parameter in changes.spans}
    targets: dict[Node, Any] = {}
    for node in graph.nodes:
        own = changes.values.get(node)
        for consumer in graph.consumers[node]:
            if place[consumer] >= place[node]:
                targets[node] = changes.targets.get(node, nothing(node) if own is None else own)
            elif isinstance(node, Operation):
                values[node] = nothing(node) if own is None else own
    return replace(state, values=graph.by_key(values), targets=graph.by_key(targets))
