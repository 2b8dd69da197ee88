"""How many copies operations hold of the values that they read, and what a change of some is to their mean."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from pjax_core.arrays import meshes
from pjax_core.graph.graph import Graph
from pjax_core.graph.nodes import Data, Node, Operation, fixed_value, is_fixed, is_index
from pjax_kernels import Coefficient
from pjax_kernels.compose import computed

Deviations: TypeAlias = Any
"""A pytree of arrays, of fixed shape for each operation."""


Factor: TypeAlias = float | Array
"""A number: of Python, or traced."""


def equals(factor: Factor, number: float) -> bool:
    """Whether a factor is this number, as far as can be said while it is traced."""
    return not isinstance(factor, Array) and factor == number


def times(factor: Factor, array: Any) -> Any:
    """The product, in the precision of the array."""
    if isinstance(factor, Array) and isinstance(array, Array):
        factor = factor.astype(array.dtype)
    return factor * array


class Move(NamedTuple):
    """How the copies in one slot move.

    Projected is ``shared + scale * deviation``; afterwards the deviation is ``keep * deviation + gain * change``.
    """

    scale: Factor
    keep: Factor
    gain: Factor


class Projected(NamedTuple):
    """What the projection of one operation gives.

    Attributes:
        changes: the mean changes of the copies in each slot that moves, before ``gain``.
        output_change: the change of the output's estimate; None for an output constraint.
        deviations: of the copies, by their :class:`Move`.
        truncation: by how much copies miss their sets by what ``deviations`` leave out, the root mean square over all
            dot products; None if nothing is left out.
    """

    changes: tuple[Array, ...]
    output_change: Array | None
    deviations: Deviations
    truncation: Array | None


def low_dtype(dtype: Any) -> Any:
    """The dtype in which changes are kept: at least float32."""
    return jnp.promote_types(dtype, jnp.float32)


def moving_slots(node: Operation) -> int:
    """How many of the slots, from the first on, hold copies that move."""
    return node.primitive.moving_inputs(len(node.slots))


def laid_out(node: Operation) -> tuple[jax.ShapeDtypeStruct, ...]:
    """The shape of the copies in each slot that moves."""
    return jax.eval_shape(spread(node), *wide_slots(node))[: moving_slots(node)]


def spread(node: Operation) -> Callable[..., tuple[Array, ...]]:
    """What lays out the copies that an operation holds."""
    assert node.primitive.spread is not None
    return functools.partial(node.primitive.spread, **node.settings)


def wide_slots(node: Operation) -> list[jax.ShapeDtypeStruct]:
    """The shape of each slot, in float32 or wider."""
    return [meshes.shape_of_type(slot.shape, low_dtype(slot.shape.dtype)) for slot in node.slots]


def moved(move: Move, deviation: Coefficient | None, change: Coefficient) -> Coefficient:
    """The deviation after a change; None for one that was zero."""
    moved = times(move.gain, change)
    return moved if deviation is None or equals(move.keep, 0) else times(move.keep, deviation) + moved


def sources(node: Operation) -> list[Node]:
    """The nodes whose outputs an operation holds copies of, each once, without those that never move."""
    return list(dict.fromkeys(source for slot in node.slots for source in slot.sources if not is_fixed(source)))


def may_be_unread(graph: Graph, node: Operation) -> bool:
    """Whether no consumer may hold a copy of some elements of the output, so that they are free."""
    read = _is_read_whole(graph, node)
    return not read and (_follows_later(graph, node) or unread_elements(graph, node, fixed_value) is not None)


def unread_elements(graph: Graph, node: Operation, values: Callable[[Node], Array]) -> Array | None:
    """Which elements of the output no consumer holds a copy of; None if there are none.

    ``values`` gives the data that select elements.
    """
    consumers = graph.consumers[node]
    if _is_read_whole(graph, node):
        return None
    if _follows_later(graph, node):
        chosen = sum(sum_over_copies(consumer, node, None, values) for consumer in consumers)
        return jnp.broadcast_to(jnp.asarray(chosen) <= 0, node.shape.shape)
    if node not in graph.unread:
        copies = computed(lambda: sum(sum_over_copies(consumer, node, None, fixed_value) for consumer in consumers))
        graph.unread[node] = None if (copies > 0).all() else np.broadcast_to(copies <= 0, node.shape.shape)
    unread = graph.unread[node]
    return None if unread is None else jnp.asarray(unread)


def _is_read_whole(graph: Graph, node: Operation) -> bool:
    """Whether it is seen that all elements of the output are read: those of the last operations, by what asks them."""
    readers = graph.consumers[node]
    return not readers or any(direct_slot(reader, node) is not None for reader in readers)


def _follows_later(graph: Graph, node: Operation) -> bool:
    """Whether data, or sizes that are variables, say which elements of the output are read."""
    return any(
        meshes.is_open(*(slot.shape for slot in consumer.slots))
        or any(
            isinstance(s, Data) and is_index(s) for slot in consumer.slots if node in slot.sources for s in slot.sources
        )
        for consumer in graph.consumers[node]
    )


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
    transposed = _sole_slot(consumer, source, {"transpose"})  # as weights (out, in)
    if transposed is not None and len(consumers) == 1:
        return consumer.slots[transposed].sum_over_copies(source, changes[transposed], values)
    copies = [sum_over_copies(c, source, None, values) for c in consumers]
    holders = sum((count > 0).astype(count.dtype) for count in copies)
    own = copies[consumers.index(consumer)]
    return sum_over_copies(consumer, source, changes, values) / (jnp.maximum(own, 1) * jnp.maximum(holders, 1))


def summed_change(
    consumer: Operation, source: Node, changes: Sequence[Array], values: Callable[[Node], Array]
) -> Array:
    """The sum over all copies of each element of ``source`` of what they ask: of a layer's weights over its rows."""
    rows = consumer.primitive.rows
    if rows is not None:
        counts = rows(*(slot.shape for slot in consumer.slots), **consumer.settings)
        changes = [change * count for change, count in zip(changes, counts, strict=False)]  # costs do not change
    return sum_over_copies(consumer, source, changes, values, asked=True)


def direct_slot(consumer: Operation, source: Node) -> int | None:
    """The place of the only slot that holds ``source``, if it does so unchanged and all of it."""
    place = _sole_slot(consumer, source, set())
    if place is None:
        return None
    counts = consumer.primitive.copies(*(slot.shape for slot in consumer.slots), **consumer.settings)
    return place if not isinstance(counts[place], Array) and np.all(counts[place]) else None


def _sole_slot(consumer: Operation, source: Node, steps: set[str]) -> int | None:
    """The place of the only slot that holds ``source``, if its view is made by these kinds of steps."""
    places = [i for i, slot in enumerate(consumer.slots) if source in slot.sources]
    return places[0] if len(places) == 1 and {step.name for step in consumer.slots[places[0]].steps} == steps else None


def sum_over_copies(
    consumer: Operation,
    source: Node,
    changes: Sequence[Array] | None,
    values: Callable[[Node], Array],
    *,
    asked: bool = False,
) -> Array:
    """The sum of changes over the copies of each element of ``source``, or with None the number of copies.

    Of what is ``asked`` without those that are stopped.
    """
    total: Any = jnp.zeros(source.shape.shape, low_dtype(source.shape.dtype))
    multiplicities = consumer.primitive.copies(*(slot.shape for slot in consumer.slots), **consumer.settings)
    for place, (slot, multiplicity) in enumerate(zip(consumer.slots, multiplicities, strict=True)):
        if source in slot.sources:
            copies = jnp.ones(slot.shape.shape, total.dtype) if changes is None else changes[place]
            copies = jnp.asarray(multiplicity, total.dtype) * copies
            found = slot.sum_over_copies(source, copies, values, counts=changes is None, asked=asked)
            total = total + found.astype(total.dtype)
    return total
