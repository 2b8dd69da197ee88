"""Algorithms that keep copies: relaxed reflections and the difference map, for any representation of the copies.

A copy is what all copies of a value share plus its own deviation.  Both algorithms write the same value into the
shared part of all copies, so that the state holds one array for the output of each node, the mean of its deviations,
and the deviations themselves, in the representation of each consumer (:mod:`pjax_core.copies`).  Values are held as
changes since the start, where all constraints but those of the outputs hold: a step can move them by far less than
their rounding, and what an operation's output has beyond its inputs follows from changes alone, as in
:mod:`pjax_core.copies.changes`.  All that algorithms do with values are affine combinations, which changes have in
common with them.
"""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from pjax_core.arrays.meshes import varying, varying_axes
from pjax_core.arrays.serialization import exportable_dataclass
from pjax_core.copies import consensus
from pjax_core.copies.changes import Changes, nothing
from pjax_core.copies.count import (
    Deviations,
    Factor,
    Move,
    equals,
    laid_out,
    low_dtype,
    moving_slots,
    sources,
    times,
    unread_elements,
)
from pjax_core.copies.factored import Copies, Factored
from pjax_core.copies.weighted import Weighted
from pjax_core.graph.computed import Fixed, with_computed
from pjax_core.graph.graph import Colour, Graph
from pjax_core.graph.nodes import Node, Operation, Parameter, Slot, is_fixed, is_index
from pjax_core.graph.sets import placed
from pjax_core.operations.primitive import moved, side_of
from pjax_core.operations.primitives import identity
from pjax_kernels.compose import add_to_pair, difference_of_pairs


@exportable_dataclass
@dataclass(frozen=True)
class CopiesState:
    """A point with copies; dictionaries are indexed by the places of nodes in the graph, as strings.

    Attributes:
        high: the parameters at the start; 0 for those in sets.
        starts: what the network computed at the start, and parameters in sets as they were then.
        shared: what all copies of a node's output share, as its change since the start.
        means: the means of their deviations, including what factored ones have left out since.
        deviations: of the copies that an operation holds; None for a sole copy, whose deviation is the mean.
        projected: of each parameter of colour B what its own projection produced last, as a change too; of those in
            sets as a value.
        truncation: of each factored operation, by how much its copies missed their sets by what was left out of them in
            the last step: the root mean square over its dot products.
        metric: of the operations whose copies have them, the weights in means: see :mod:`pjax_core.copies.metric`.
        data: the data arrays.
        parameters: the places of the parameters.
    """

    high: Any
    starts: dict[str, Array]
    shared: dict[str, Array]
    means: dict[str, Array]
    deviations: dict[str, Deviations]
    projected: dict[str, Array]
    truncation: dict[str, Array]
    metric: dict[str, Array]
    data: tuple[Any, ...] | Fixed
    parameters: tuple[str, ...] = field(metadata={"static": True})

    def changes(self, old: CopiesState) -> list[Array]:
        """What a change of the state is measured by: the differences from an old one of the means of all copies."""
        return [(self.shared[i] + self.means[i]) - (old.shared[i] + old.means[i]) for i in self.shared]

    @property
    def of_weights(self) -> list[bool]:
        """Which of the changes are those of parameters."""
        return [i in self.parameters for i in self.shared]

    @property
    def low(self) -> Any:
        """The parameters, as differences from ``high``: means of copies in colour A, results of projection in B."""
        leaves = [self.projected[i] if i in self.projected else self.shared[i] + self.means[i] for i in self.parameters]
        return jax.tree.unflatten(jax.tree.structure(self.high), leaves)


def initial_state(graph: Graph, copies: Mapping[Operation, Copies], params: Any, low: Any, data: Any) -> CopiesState:
    """The point where every copy has the value that the network computes."""
    high, moved = consensus.normalised(params, low)
    fixed = with_computed(graph, high, data)
    starts = consensus.starts_of(graph, high, fixed)
    since_start = Changes(graph, consensus.start_of(jax.tree.leaves(high), fixed, starts))
    since_start.values.update(zip(graph.parameters, jax.tree.leaves(moved), strict=True))
    if low is not None:
        since_start.follow(starts)
    index, leaves, changes = graph.keys, jax.tree.leaves(high), since_start.values
    shared = {i: changes.get(node, nothing(node)) for node, i in index.items() if node in changes or node in starts}
    in_sets = {parameter: leaves[parameter.index] for parameter in graph.regions}
    for parameter, start in in_sets.items():
        leaves[parameter.index] = jnp.zeros_like(start)
    return CopiesState(
        high=jax.tree.unflatten(jax.tree.structure(high), leaves),
        starts=graph.by_key(consensus.kept(starts) | in_sets),
        shared=shared,
        means={i: jnp.zeros_like(array) for i, array in shared.items()},
        deviations={index[node]: no_deviations(graph, node, held) for node, held in copies.items()},
        projected={
            index[p]: changes[p] + in_sets[p] if p in in_sets else changes[p]
            for p in graph.parameters
            if p in in_sets or graph.colours[p] is Colour.B
        },
        truncation={
            index[node]: varying(jnp.zeros(()), varying_axes(high))
            for node, held in copies.items()
            if isinstance(held, Factored)
        },
        metric={},
        data=fixed,
        parameters=tuple(index[parameter] for parameter in graph.parameters),
    )


def no_deviations(graph: Graph, node: Operation, copies: Copies) -> Deviations:
    """No deviation of the copies that an operation holds."""
    return _without_sole(graph, node, copies.start(node))


class Constraints(NamedTuple):
    """A set of constraints, no two of which are adjacent, to project onto together: those of ``nodes`` and of data.

    ``restores`` says whether the set restores the copies of data that an operation holds: each such copy may be
    restored where its consumer needs it, since data never change.
    """

    nodes: frozenset[Node]
    restores: Callable[[Operation], bool]

    def hold(self, consumer: Operation, place: int) -> bool:
        """Whether the set writes the copies in a slot, as outputs of its nodes."""
        inside = {
            self.restores(consumer) if is_fixed(source) else source in self.nodes
            for source in consumer.slots[place].sources
        }
        if len(inside) > 1:
            names = ", ".join(source.name for source in consumer.slots[place].sources)
            raise ValueError(
                f"an operand of {consumer.name} is a view of {names}, which are in different layers; cyclic "
                "Douglas-Rachford needs them in one, so take another algorithm, or make each an operand of its own"
            )
        return inside.pop()


def of_colour(graph: Graph, colour: Colour) -> Constraints:
    """One of the two sets of alternating algorithms; data have the colour that their consumer has not."""
    return Constraints(frozenset(graph.coloured(colour)), lambda consumer: graph.colours[consumer] is not colour)


def of_layers(graph: Graph) -> list[Constraints]:
    """The sets of cyclic algorithms, from the output on; data are one layer beyond their consumer."""

    def of_layer(depth: int, nodes: Sequence[Node]) -> Constraints:
        return Constraints(frozenset(nodes), lambda consumer: graph.depth[consumer] + 1 == depth)

    layers = list(graph.layers())
    deepest = [node for node in layers[-1] if isinstance(node, Operation)]
    if any(slot.is_fixed for node in deepest for slot in node.slots[: moving_slots(node)]):
        layers.append(())
    return list(itertools.starmap(of_layer, enumerate(layers)))


class Projection(NamedTuple):
    """What projecting onto a set of constraints does.

    Attributes:
        outputs: what each node writes into the copies of its output, as a change since the start.
        placed: of parameters in sets, as a value.
        changes: of each node, the mean change of those copies of its output that are projected as inputs.
        deviations: those of the projected operations, as the algorithm moves them.
        truncation: see :class:`pjax_core.copies.Projected`.
    """

    outputs: dict[Node, Array]
    placed: dict[Node, Array]
    changes: dict[Node, Array]
    deviations: dict[Operation, Deviations]
    truncation: dict[Node, Array]


class Point:
    """A state opened for a step: its graph, and its arrays by node, values as changes since the start."""

    def __init__(self, graph: Graph, copies: Mapping[Operation, Copies], state: CopiesState) -> None:
        self.graph = graph
        self.copies = copies
        self.state = state
        self.shared, self.means, self.weights = map(graph.by_node, (state.shared, state.means, state.metric))
        self.estimates = {node: self.shared[node] + self.means[node] for node in self.shared}
        self.start_of = start_of(graph, state)
        self.weighted = Weighted(graph, self.weights, self.start_of)

    def project(
        self,
        constraints: Constraints,
        shared: Mapping[Node, Array],
        estimates: Mapping[Node, Array],
        move: Callable[[Operation, int], Move],
    ) -> Projection:
        """Project copies that share ``shared`` and have the means ``estimates``; their deviations as ``move`` says."""
        found = Projection({}, {}, {}, {}, {})
        start_of = self.start_of
        for node in self.graph.nodes:
            if node in constraints.nodes:
                with jax.named_scope(self.graph.label(node)):
                    if isinstance(node, Operation):
                        self._project_operation(node, shared, estimates, move, found)
                        if node in found.outputs:
                            self.start_of = consensus.values_after(found.outputs[node], start_of)
                    elif isinstance(node, Parameter) and node in self.graph.regions:
                        self._place(node, estimates[node], found)
                    else:
                        found.outputs[node] = estimates[node]
        self.start_of = start_of
        return found

    def _place(self, parameter: Parameter, change: Array, found: Projection) -> None:
        """Make a parameter the nearest point of its set, and add that to ``found``."""
        start, none = self.start_of(parameter), jnp.zeros_like(change)
        high, low = placed(self.graph.regions[parameter], add_to_pair(start, none, change))
        found.placed[parameter] = high + low
        found.outputs[parameter] = difference_of_pairs(high, low, start, none)

    def _project_operation(
        self,
        node: Operation,
        shared: Mapping[Node, Array],
        estimates: Mapping[Node, Array],
        move: Callable[[Operation, int], Move],
        found: Projection,
    ) -> None:
        """Project one operation and add what it does to ``found``."""
        starts = [slot.read(self.start_of) for slot in node.slots]
        changes = [None if slot.is_fixed else self.read_changes(slot, shared) for slot in node.slots]
        deviations = self.deviations(node)
        moves = [move(node, place) for place in range(moving_slots(node))]
        estimate = output = residual = None
        if node in estimates:
            estimate = estimates[node]
            if self.weights and node.primitive is identity and self.graph.colours[node] is Colour.B:
                copy = times(moves[0].scale, deviations[0])
                estimate = self.weighted.estimate(node, moved(copy, changes[0]), estimate)
            growth = node.primitive.growth(starts, changes, **node.settings)
            output, residual = self.start_of(node) + estimate, estimate if growth is None else estimate - growth
        projected = self.copies[node].project(
            node,
            list(map(moved, starts, changes)),
            deviations,
            output,
            residual,
            moves,
            unread_elements(self.graph, node, self.start_of),
            **({"weights": self.weights[node]} if node in self.weights else {}),
        )
        if estimate is not None and projected.output_change is not None:
            found.outputs[node] = estimate + projected.output_change
        if projected.truncation is not None:
            found.truncation[node] = projected.truncation
        found.deviations[node] = projected.deviations
        for source in sources(node):
            change = self.weighted.part_of_mean(node, source, projected.changes)
            found.changes[source] = found.changes[source] + change if source in found.changes else change

    def read_changes(self, slot: Slot, changes: Mapping[Node, Array]) -> Array:
        """What a slot holds of changes: those of data are 0, and indices are what they are."""

        def change(source: Node) -> Array:
            if not is_fixed(source):
                return changes[source]
            value = self.start_of(source)
            return value if is_index(source) else jnp.zeros_like(value)

        return slot.read(change)

    def held(self, node: Operation) -> Deviations:
        """The deviations that the state holds of an operation's copies: None for a sole one."""
        return self.state.deviations[self.graph.keys[node]]

    def deviations(self, node: Operation) -> Deviations:
        """The deviations that an operation holds, those of sole copies from the means."""
        held = self.held(node)
        if not isinstance(held, tuple):
            return held
        return tuple(
            self.means[node.slots[place].sources[0]] if deviation is None else deviation
            for place, deviation in enumerate(held)
        )

    def moved(
        self,
        shared: Mapping[Node, Array],
        means: Mapping[Node, Array],
        deviations: Mapping[Operation, Deviations],
        projections: Sequence[Projection],
    ) -> CopiesState:
        """The state with these arrays in place of the old ones, after ``projections``."""
        by_key = self.graph.by_key
        projected: dict[str, Array] = {}
        truncation = dict(self.state.truncation)
        for found in projections:
            projected |= by_key(found.outputs | found.placed)
            for place, left_out in by_key(found.truncation).items():
                truncation[place] = truncation[place] + left_out.astype(truncation[place].dtype)
        stored = {node: _without_sole(self.graph, node, held) for node, held in deviations.items()}
        new = replace(
            self.state,
            shared=self.state.shared | by_key(shared),
            means=self.state.means | by_key(means),
            deviations=self.state.deviations | by_key(stored),
            projected={i: projected.get(i, array) for i, array in self.state.projected.items()},
            truncation=truncation,
        )
        # Operands of different precision make changes of the widest.
        return jax.tree.map(lambda array, old: array.astype(old.dtype), new, self.state)


def start_of(graph: Graph, state: CopiesState) -> Callable[[Node], Array]:
    """The value of each node at the start, in float32 or wider."""
    start = consensus.start_of(params_at_start(graph, state), state.data, graph.by_node(state.starts))

    def widened(node: Node) -> Array:
        array = start(node)
        return array.astype(low_dtype(array.dtype)) if jnp.issubdtype(array.dtype, jnp.floating) else array

    return widened


def params_at_start(graph: Graph, state: CopiesState) -> list[Array]:
    """The parameters at the start, in their order."""
    leaves = jax.tree.leaves(state.high)
    for parameter in graph.regions:
        leaves[parameter.index] = state.starts[graph.keys[parameter]]
    return leaves


def movement_of_operands(graph: Graph, state: CopiesState) -> dict[str, Array]:
    """How far what the copies of each factored operation share has moved since the start, as ``truncation`` counts."""
    point = Point(graph, {}, state)

    def movement(node: Node) -> Array:
        assert isinstance(node, Operation)
        bilinear = node.primitive.bilinear
        assert bilinear is not None
        changes = [point.read_changes(slot, point.estimates) for slot in node.slots]
        unit = functools.reduce(jnp.maximum, (jnp.max(jnp.abs(change), initial=0) for change in changes))
        unit = jnp.maximum(unit, jnp.finfo(unit.dtype).tiny)
        sides = (side_of([change / unit for change in changes], side) for side in bilinear.sides)
        of_x, of_w = bilinear.squared_norms(*sides, **node.settings)
        return unit * jnp.sqrt(jnp.mean(jnp.broadcast_to(of_x + of_w, node.shape.shape)))

    return {place: movement(graph.nodes[int(place)]) for place in state.truncation}


def combined(*terms: tuple[Factor, Array]) -> Array:
    """The linear combination, computed without the terms that vanish."""
    remaining = [
        array if equals(factor, 1) else times(factor, array) for factor, array in terms if not equals(factor, 0)
    ]
    return functools.reduce(operator.add, remaining) if remaining else jnp.zeros_like(terms[0][1])


def _without_sole(graph: Graph, node: Operation, deviations: Deviations) -> Deviations:
    """Dense deviations without those of copies that are the only ones of their value."""
    if not isinstance(deviations, tuple):
        return deviations
    return tuple(None if _is_sole(graph, node, place) else held for place, held in enumerate(deviations))


def _is_sole(graph: Graph, node: Operation, place: int) -> bool:
    """Whether a slot holds the only copy of each element of its only source."""
    slot = node.slots[place]
    source = slot.sources[0]
    return (
        not slot.steps
        and not is_fixed(source)
        and graph.consumers[source] == (node,)
        and sum(source in other.sources for other in node.slots) == 1
        and laid_out(node)[place].shape == slot.shape.shape
    )
