"""Projections from a network's own computation, with changes held apart from values, however small they are.

A change is often far below the rounding of what it changes, so it is never added to that and taken from it again.  With
``V`` the values at the start and ``D`` the changes since, the output of an operation ``f`` has beyond what follows from
its inputs

    (V_z + D_z) - f(V_x + D_x)  =  D_z - (f(V_x + D_x) - f(V_x)),          as V_z = f(V_x) to begin with,

and the bracket, the operation's growth, is made of changes alone: for dot products ``F(D_x, W + D_W) + F(X, D_W)``.
This residual is all that a projection needs to be precise; the values enter as coefficients.  Where nothing has changed
yet there is no array: a sweep from the output back forms no product to compare with.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from pjax_core.arrays.meshes import full, shape_of_type
from pjax_core.copies.count import low_dtype, mean_change, sources, summed_change, unread_elements
from pjax_core.copies.shares import LogShares
from pjax_core.graph.graph import Graph
from pjax_core.graph.nodes import Feedback, Node, Operation, Parameter, Slot, is_index
from pjax_core.graph.sets import placed
from pjax_core.operations.primitive import Primitive, moved, side_of
from pjax_kernels.compose import (
    Span,
    add_to_pair,
    always,
    difference_of_pairs,
    project_dense_in_span,
    replaced_if,
)

LINEAR = -60
"""Changes that are 2 to this power of what they change leave every projection linear in them."""


class Changes:
    """What projections have changed since the start, by node; where there is no array, nothing.

    Attributes:
        values: by how much the value that all copies of a node's output share has changed.
        targets: by how much the mean of these copies has, once some have been moved.
        placed: the parameters in sets, once they are placed, as pairs of a value and what rounding took from it.
        spans: of parameters that data move what they move along; their ``values`` and ``targets`` are
            :class:`pjax_kernels.compose.ChangeInSpan`.
        shares: which parts of a pull reach the nodes; None for changes as they are.  With them, what all copies of a
            value are asked is added up, weighed as if each reader let as large a part through, else the way that loses
            least, past what is to learn, is all that counts; likewise what each dot product of an operation is asked.
            All but output constraints is projected to first order then, dot products and smooth functions onto their
            tangents.
        units: those that the changes of each node are held in, with shares.  Without, changes fall below the smallest
            float32 ten or twenty layers below the output.
    """

    def __init__(self, graph: Graph, start_of: Callable[[Node], Array], shares: LogShares | None = None) -> None:
        self.graph = graph
        self.start_of = start_of
        self.shares = shares
        self.units = None if shares is None else _Units.of(shares)
        self.values: dict[Node, Any] = {}
        self.targets: dict[Node, Any] = {}
        self.placed: dict[Parameter, tuple[Array, Array]] = {}
        self.spans: dict[Parameter, Span] = {}

    def project(self, node: Node) -> None:
        """Project onto the constraint of one node."""
        if isinstance(node, Parameter):
            if node in self.targets:
                self.values[node] = self.targets.pop(node)
            if node in self.graph.regions and self.shares is None:
                self._place(node)
        elif isinstance(node, Operation):
            weights = self._moved_by_data(node)
            if weights is None:
                self._project_operation(node)
            else:
                self._project_in_span(node, weights)

    def _place(self, parameter: Parameter) -> None:
        """Make a parameter the nearest point of its set."""
        start, change = self.start_of(parameter), self.values.get(parameter, nothing(parameter))
        pair = placed(self.graph.regions[parameter], add_to_pair(start, jnp.zeros_like(change), change))
        self.placed[parameter] = pair
        self.values[parameter] = difference_of_pairs(*pair, start, jnp.zeros_like(change))

    def follow(self, nodes: Iterable[Node]) -> None:
        """Let the outputs of operations be what the changes of their inputs make of them."""
        for node in nodes:
            if isinstance(node, Operation):
                weights = self._moved_by_data(node)
                if weights is None:
                    growth = node.primitive.growth(*self._inputs(node), **node.settings)
                else:
                    growth = self.values[weights].with_rows
                if growth is not None:
                    self.values[node] = self.unscaled(node, node, growth)

    def of_parameters(self) -> list[Array]:
        """By how much each has changed, in their order."""
        return [self.values[node] if node in self.values else nothing(node) for node in self.graph.parameters]

    def _moved_by_data(self, node: Operation) -> Parameter | None:
        """The operation's weights, if their changes are held in the span of the data that move them."""
        return next((source for source in sources(node) if source in self.spans), None)

    def _project_in_span(self, node: Operation, weights: Parameter) -> None:
        """Project onto an operation's graph, and move its weights along what data move them along."""
        change = self.targets.pop(node, self.values.pop(node, None))
        unread = unread_elements(self.graph, node, self.start_of)
        change, residual = _beyond(self.values[weights].with_rows, change, unread)
        estimate = self.start_of(node) + change
        self.targets[weights], output_change = project_dense_in_span(
            self.spans[weights], self.values[weights], estimate, residual
        )
        self.values[node] = change + output_change

    def _project_operation(self, node: Operation) -> None:
        starts, changes = self._inputs(node)
        if node.primitive.constrains_output:
            found, _ = node.primitive.project(tuple(map(moved, starts, changes)), None, None, **node.settings)
        else:
            growth = node.primitive.growth(starts, changes, **node.settings)
            change = self.targets.pop(node, self.values.pop(node, None))
            change = None if change is None else self._estimated(node, change)
            if growth is None and change is None:
                return
            beyond = _beyond(growth, change, unread_elements(self.graph, node, self.start_of))
            found, change = self._onto_graph(node, starts, changes, *self._evened(node, *beyond))
            self.values[node] = self.unscaled(node, node, change)
        for source in sources(node):
            if self.shares is not None and not any(slot.asks(source) for slot in node.slots):
                continue
            asked = self._asked(source, node, found)
            self.targets[source] = moved(asked, self.targets.get(source, self.values.get(source)))

    def _evened(self, node: Operation, change: Array, residual: Array) -> tuple[Array, Array]:
        """What dot products are asked, such that all hand on as much of it.

        Else ever fewer samples count below each layer: those whose values are small.
        """
        if self.shares is None or node not in self.shares.losses:
            return change, residual
        evened = residual * self.shares.losses[node].astype(residual.dtype)
        return change + (evened - residual), evened

    def _onto_graph(
        self,
        node: Operation,
        starts: Sequence[Array],
        changes: Sequence[Array | None],
        change: Array,
        residual: Array,
    ) -> tuple[tuple[Array, ...], Array]:
        """Onto an operation's graph: the mean changes of its inputs' copies, and its output's since the start."""
        primitive = node.primitive
        inputs = tuple(map(moved, starts, changes))
        found, output_change = self.projected(node, inputs, self.start_of(node) + change, residual)
        move = None if primitive.common_move is None else primitive.common_move(inputs, found)
        if move is None:
            return found, change + output_change
        growth = primitive.growth(starts, [moved(move, old) for old in changes], **node.settings)
        assert growth is not None
        return found, growth

    def projected(
        self, node: Operation, inputs: tuple[Array, ...], estimate: Array, residual: Array
    ) -> tuple[tuple[Array, ...], Array]:
        """The mean changes of the inputs' copies, and that of the estimate; with shares, along tangents."""
        if self.shares is not None and node.primitive.bilinear is not None:
            return project_tangent_of_products(node.primitive, inputs, residual, **node.settings)
        if self.shares is not None and node.primitive.project_tangent is not None:
            return node.primitive.project_tangent(inputs, residual, **node.settings)
        found, output_change = node.primitive.project(inputs, estimate, residual, **node.settings)
        assert output_change is not None
        return found, output_change

    def _inputs(self, node: Operation) -> tuple[list[Array], list[Array | None]]:
        """The values in the slots at the start, and how they have changed."""
        return [slot.read(self.start_of) for slot in node.slots], [self._change_of(slot, node) for slot in node.slots]

    def _change_of(self, slot: Slot, reader: Operation) -> Array | None:
        """The change of a slot's value; None if none of its sources has changed.

        In a sweep the time steps of a loop come from the last to the first: each before the state that it reads.
        """
        moved_later = Feedback if self.shares is not None else ()
        sources = (node for node in slot.sources if not isinstance(node, moved_later))
        changed = {node: self.values[node] for node in sources if node in self.values}
        if not changed:
            return None

        def change(source: Node) -> Array:
            if source in changed:
                return self.scaled(source, reader, changed[source])
            return self.start_of(source) if is_index(source) else nothing(source)

        return slot.read(change)

    def _estimated(self, node: Operation, change: Array) -> Array:
        """The change of the mean of a node's copies, in the units that the node is projected with."""
        if self.shares is None or len(self.graph.consumers[node]) == 1:
            return self.scaled(node, node, change)
        # In a loop that runs once: else each residual layer is compiled to add up what all those above it ask anew.
        return replaced_if(always(self.share(node)), functools.partial(self.scaled, node, node), change)

    def _asked(self, source: Node, reader: Operation, found: Sequence[Array]) -> Array:
        """What one reader asks of a value: its part of the mean of all copies.

        With shares the sum over its copies, as large as if the largest part of all readers' came this way.
        """
        if self.shares is None:
            return self.unscaled(source, reader, mean_change(self.graph, reader, source, found, self.start_of))
        change = self.unscaled(source, reader, summed_change(reader, source, found, self.start_of))
        if len(self.graph.consumers[source]) == 1:
            return change
        assert self.units is not None
        return change * self.units.at_way(self.units.lost, source, reader).astype(change.dtype)

    def scaled(self, node: Node, operation: Operation, change: Array) -> Array:
        """A change in the units of its node, in those that an operation is projected with.

        These are the true ones for output constraints; of what these ask, other operations are projected with a part so
        small that they are linear in it.
        """
        if self.units is None:
            return change
        scale = 2.0**LINEAR if node == operation else self.units.at_way(self.units.scales, node, operation)
        return change * jnp.asarray(scale, change.dtype)

    def unscaled(self, node: Node, operation: Operation, change: Array) -> Array:
        """The change in the units of its node, in the dtype of changes."""
        change = change.astype(low_dtype(node.shape.dtype))
        if self.units is None:
            return change
        scale = 2.0**-LINEAR if node == operation else self.units.at_way(self.units.inverses, node, operation)
        return change * jnp.asarray(scale, change.dtype)

    def share(self, node: Node) -> Array:
        """The logarithm of the part of the pull that reaches a node."""
        assert self.units is not None
        return self.units.at_node(self.units.shares.nodes, node)

    def whole(self, node: Node, change: Array) -> Array:
        """A change in the units of its node, divided by the part of the pull that reaches it."""
        assert self.units is not None
        return change * self.units.at_node(self.units.wholes, node).astype(change.dtype)

    def part(self, node: Node, change: Array) -> Array:
        """A change that was divided by this part, in the units of its node."""
        assert self.units is not None
        return change * self.units.at_node(self.units.parts, node).astype(change.dtype)


class _Units(NamedTuple):
    """Powers of 2 near the shares of all nodes: the units that changes are held in, and what turns them into others.

    Together: else each number would be a kernel of its own for the compiler.

    Attributes:
        shares: what they are near.
        wholes: of each node what makes of a change in its units that over its share.
        parts: the inverses.
        scales: for each pair of a node and a reader what makes of a change of the node in its units one in those that
            the reader is projected with.
        inverses: those of the scales.
        lost: by how much more than the part that comes this way reaches the node by the largest.
    """

    shares: LogShares
    wholes: Array
    parts: Array
    scales: Array
    inverses: Array
    lost: Array

    @classmethod
    def of(cls, shares: LogShares) -> _Units:
        """Those of the shares."""
        exponents = jnp.rint(shares.nodes).astype(jnp.int32)
        source = np.asarray([shares.places[node] for node, _ in shares.pairs])
        reader = np.asarray([shares.places[reader] for _, reader in shares.pairs])
        asks = np.asarray([isinstance(r, Operation) and r.primitive.constrains_output for _, r in shares.pairs])
        scale = exponents[source] + jnp.where(asks, 0, LINEAR - exponents[reader])
        one = jnp.ones((), jnp.result_type(float))
        return cls(
            shares,
            jnp.exp2(exponents - shares.nodes),
            jnp.exp2(shares.nodes - exponents),
            jnp.ldexp(one, scale),
            jnp.ldexp(one, -scale),
            jnp.exp2(shares.nodes[source] - shares.ways),
        )

    def at_node(self, numbers: Array, node: Node) -> Array:
        """The one of a node, as a slice."""
        return lax.index_in_dim(numbers, self.shares.places[node], keepdims=False)

    def at_way(self, numbers: Array, node: Node, reader: Node) -> Array:
        """The one of a node and a reader."""
        return lax.index_in_dim(numbers, self.shares.pairs[node, reader], keepdims=False)


def project_tangent_of_products(
    primitive: Primitive, inputs: Sequence[Array], residual: Array, **settings: Any
) -> tuple[tuple[Array, ...], Array]:
    """Onto the tangents of the graphs of an operation's dot products: the mean changes of copies, and the output's."""
    assert primitive.bilinear is not None
    inputs = [array.astype(residual.dtype) for array in inputs]
    norms = primitive.bilinear.squared_norms(*(side_of(inputs, side) for side in primitive.bilinear.sides), **settings)
    multiplier = residual / (1 + norms[0] + norms[1])
    sums = jax.vjp(functools.partial(primitive.forward, **settings), *inputs)[1](multiplier)
    counts = primitive.copies(*(jax.typeof(array) for array in inputs), **settings)
    means = (total / jnp.maximum(jnp.asarray(count, total.dtype), 1) for total, count in zip(sums, counts, strict=True))
    return tuple(means), -multiplier


def _beyond(growth: Array | None, change: Array | None, unread: Array | None) -> tuple[Array, Array]:
    """The change of an output's estimate, and what that is beyond its growth, of which one may be None for zero.

    Where it is ``unread``, the estimate follows from the inputs.
    """
    if change is None:
        assert growth is not None
        change = jnp.zeros_like(growth)
    if growth is None:
        change = change if unread is None else jnp.where(unread, 0, change)
        return change, change
    if unread is not None:
        change = jnp.where(unread, growth, change)
    return change, change - growth


def nothing(node: Node) -> Array:
    """No change of a node's output."""
    return full(shape_of_type(node.shape, low_dtype(node.shape.dtype)), 0)
