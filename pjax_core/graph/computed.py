"""Functions of data alone, computed once and kept beside the data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
from jax import Array

from pjax_core.arrays.serialization import exportable_dataclass
from pjax_core.graph.colour import Graph
from pjax_core.graph.nodes import Computed, Node, fixed_value


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
        if not isinstance(node, Computed):
            return fixed_value(node, leaves)
        if node not in known:
            known[node] = node.function(*(slot.read(value) for slot in node.slots))
        return known[node]

    return Fixed(data, tuple(value(node) for node in graph.computed))
