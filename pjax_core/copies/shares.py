"""Which part of what its output constraint asks reaches each node: the scale of directions."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from pjax_core.copies.count import low_dtype
from pjax_core.graph.colour import Graph
from pjax_core.graph.nodes import Node, Operation, Parameter


class LogShares(NamedTuple):
    """Logarithms to base 2 of parts of the pull of the output constraint.

    Attributes:
        of_nodes: of the part that reaches each node: where there are several ways, the largest.
        of_ways: of the part that comes to a node from each operation that reads it.
    """

    of_nodes: dict[Node, Array]
    of_ways: dict[tuple[Node, Node], Array]


def log_shares(graph: Graph, start_of: Callable[[Node], Array]) -> LogShares:
    """Which part of what its output constraint asks reaches each node."""
    ways: dict[Node, dict[Node, Array]] = {node: {} for node in graph.nodes}
    shares: dict[Node, Array] = {}
    for node in reversed(graph.nodes):
        if not isinstance(node, Operation):
            continue
        if node.primitive.constrains_output:
            own = jnp.zeros(())
            of_slots = [jnp.log2(node.settings.get("strength", 1.0))] * len(node.slots)
        else:
            own = functools.reduce(jnp.maximum, ways[node].values())
            inputs = [slot.read(start_of).astype(low_dtype(slot.shape.dtype)) for slot in node.slots]
            of_slots = [jnp.log2(jnp.asarray(share)) for share in of_inputs(node, inputs)]
        shares[node] = own
        for slot, of_slot, count in zip(node.slots, of_slots, copies(node), strict=True):
            for source in slot.sources:
                if source in ways:
                    one_of = len(graph.consumers[source]) * (1 if isinstance(source, Parameter) else count)
                    way = own + of_slot - float(np.log2(max(one_of, 1)))
                    ways[source][node] = jnp.maximum(way, ways[source].get(node, -jnp.inf))
    for node in graph.nodes:
        if isinstance(node, Parameter):
            shares[node] = functools.reduce(jnp.maximum, ways[node].values())
    return LogShares(shares, {(node, reader): way for node, of in ways.items() for reader, way in of.items()})


def copies(node: Operation) -> list[float]:
    """How many copies the operation holds of the elements of each slot, at most."""
    counts = node.primitive.copies(*(slot.shape for slot in node.slots), **node.settings)
    return [float(np.max(count, initial=0)) for count in counts]


def of_inputs(node: Operation, inputs: Sequence[Array]) -> Sequence[float | Array]:
    """What part of a residual of the operation reaches each of its inputs, besides the copies."""
    primitive = node.primitive
    if primitive.shares is not None:
        return primitive.shares(*inputs, **node.settings)
    if primitive.bilinear is None:
        return (0.5,) * len(inputs)
    shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in inputs]
    size = jax.eval_shape(functools.partial(primitive.forward, **node.settings), *shapes).size
    counts = primitive.copies(*shapes, **node.settings)
    squares = sum(jnp.sum(np.asarray(n) * x * x) for n, x in zip(counts, inputs, strict=True))
    return (1 / (1 + squares / max(size, 1)),) * len(inputs)
