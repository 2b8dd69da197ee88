"""A metric on copies: how much those of each constraint count in the means on which the copies of a value agree.

A constraint is an entry of an operation's output, with its own copy of that and of all that it is computed from, such
as one dot product.  All that it holds has one weight, so that its own projection is the same in every such metric.
For that all operations are in A, apart from each other (:func:`pjax_core.graph.colour.two_colour`): in B copies agree
on their weighted means, those of an output with those of all its readers.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import jax.numpy as jnp
from jax import Array

from pjax_core.arrays import meshes
from pjax_core.arrays.norms import Norms, rms
from pjax_core.copies.count import Factor, equals, laid_out, low_dtype, sources, spread, times
from pjax_core.copies.factored import Copies, n_bytes
from pjax_core.copies.point import CopiesState, Point
from pjax_core.copies.stored import Dense, means_over_copies
from pjax_core.graph.graph import Colour, Graph
from pjax_core.graph.nodes import Node, Operation
from pjax_core.operations.primitive import Batching

LEAST = 1e-6
"""Weights stay above, so that means are defined however long a constraint holds."""


def require_agreement(rate: Factor) -> None:
    """Raise ``ValueError`` where the metric of a problem is one for copies that differ."""
    if not equals(rate, 0):
        raise ValueError(
            "metric is pj.metric.by_gaps(...), which weighs copies that differ, but those of alternating and cyclic "
            "projections, and of directions, agree; take pj.douglas_rachford() or another algorithm that reflects"
        )


def with_weights(graph: Graph, copies: Mapping[Operation, Copies], state: CopiesState) -> CopiesState:
    """The state with a weight of 1 for each constraint.

    Operations that are not known to be entry by entry, such as output constraints, keep a weight of 1.
    """
    for node, held in copies.items():
        if not isinstance(held, Dense):
            raise ValueError(
                f"{graph.label(node)}: its copies are to be factored, which have no metric; take "
                f'copies="dense" ({n_bytes(laid_out(node)):,} bytes here), copies="auto" with that budget, or gamma=0'
            )
    weighted = [node for node in copies if graph.colours[node] is Colour.A and _is_entry_by_entry(node)]
    return replace(
        state,
        metric={
            graph.keys[node]: meshes.full(meshes.shape_of_type(node.shape, low_dtype(node.shape.dtype)), 1)
            for node in weighted
        },
    )


def _is_entry_by_entry(node: Operation) -> bool:
    """Whether the operation's constraints are known to be the elements of its output."""
    primitive = node.primitive
    if primitive.copywise is None and primitive.batching is not Batching.BROADCAST:
        return False
    return all(held.shape[: len(node.shape.shape)] == node.shape.shape for held in laid_out(node))


def following_gaps(old: Point, state: CopiesState, rate: Factor) -> CopiesState:
    """The state that a step made of the old point, with weights moved at a ``rate`` towards the squared gaps.

    These are the mean squares, over all that a constraint holds, of what lay between the points in both sets that the
    step met, over their mean over all constraints.
    """
    new = Point(old.graph, old.copies, state)
    squares = {node: _mean_squares(old, new, node) for node in old.weights if isinstance(node, Operation)}
    mean = sum(map(jnp.sum, squares.values())) / sum(array.size for array in squares.values())
    for node in squares:
        weights = old.weights[node]
        wanted = jnp.where(mean > 0, squares[node] / jnp.where(mean > 0, mean, 1), weights)
        new.weights[node] = jnp.maximum(weights + times(rate, wanted - weights), LEAST).astype(weights.dtype)
    keys = old.graph.keys
    return replace(
        state,
        means=state.means | {keys[node]: _mean_deviation(new, node) for node in new.shared if not _is_sole(new, node)},
        metric={keys[node]: weights for node, weights in new.weights.items()},
    )


def _mean_squares(old: Point, new: Point, node: Operation) -> Array:
    """Of what the copies of the inputs and of the output of each constraint have moved."""
    movements = {source: new.shared[source] - old.shared[source] for source in sources(node)}
    shared = spread(node)(*(old.read_changes(slot, movements) for slot in node.slots))
    deviations = zip(new.deviations(node), old.deviations(node), strict=True)
    moved = [of_all + (after - before) for of_all, (after, before) in zip(shared, deviations, strict=True)]
    output = new.estimates[node] - old.estimates[node]  # of the only copy
    count = 1 + sum(array.size // max(output.size, 1) for array in moved)
    squares = (jnp.sum(array**2, axis=tuple(range(output.ndim, array.ndim))) for array in moved)
    return functools.reduce(operator.add, squares, output**2) / count


def _is_sole(point: Point, source: Node) -> bool:
    """Whether there is but one copy of a node's output, of which the mean is the deviation."""
    return any(
        held is None and source in slot.sources
        for consumer in point.graph.consumers[source]
        for held, slot in zip(point.held(consumer), consumer.slots, strict=False)
    )


def _mean_deviation(point: Point, source: Node) -> Array:
    """The weighted mean of the deviations of all copies of a node's output."""
    return functools.reduce(
        operator.add,
        (
            point.weighted.part_of_mean(
                consumer, source, means_over_copies(consumer, point.deviations(consumer), point.weights.get(consumer))
            )
            for consumer in point.graph.consumers[source]
        ),
    )


def gaps_of_step(rate: Factor, old: Any, new: Any) -> dict[str, Array]:
    """The root mean square of what a step has changed, over its rate: of parameters, and of other values."""
    kinds = {"weights": True, "inputs": False}

    def of_kind(of_weights: bool, old: Any, new: Any) -> list[Array | Norms]:
        changes = zip(new.of_weights, new.changes(old), strict=True)
        return [change for of_weight, change in changes if of_weight == of_weights]

    return {
        kind: jnp.abs(times(1 / rate, rms(functools.partial(of_kind, of_weights), old, new)))
        for kind, of_weights in kinds.items()
        if of_weights in new.of_weights
    }
