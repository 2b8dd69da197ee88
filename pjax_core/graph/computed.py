"""Functions of data alone, computed once and kept beside the data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
from jax import Array, lax

from pjax_core.arrays.serialization import exportable_dataclass
from pjax_core.graph.graph import Graph
from pjax_core.graph.nodes import Computed, Node, fixed_value


@exportable_dataclass
@dataclass(frozen=True)
class Fixed:
    """The data that were ``given``, and what is ``computed`` from them once; with a metric the ``costs``."""

    given: tuple[Any, ...]
    computed: tuple[Array, ...]
    costs: tuple[Array, ...] = ()


def fixed_values(data: Sequence[Array]) -> Callable[[Node], Array]:
    """The values of leaves of the data, of constants, and of functions of these, which are computed once."""
    known: dict[Node, Array] = {}

    def value(node: Node) -> Array:
        if not isinstance(node, Computed):
            return fixed_value(node, data)
        if node not in known:
            known[node] = node.function(*(slot.read(value) for slot in node.slots))
        return known[node]

    return value


def with_computed(
    graph: Graph, params: Any, data: tuple[Any, ...], costs: tuple[Array, ...] | None = None
) -> tuple[Any, ...] | Fixed:
    """The data, and beside them what operations read of functions of data, and costs: those given, or of the metric."""
    if not graph.computed and graph.costs is None:
        return data
    if costs is None:
        # Numbers that are known would else be part of the program of a run that begins, and not of one that goes on.
        costs = () if graph.costs is None else lax.optimization_barrier(graph.costs(params, data))
    return Fixed(data, tuple(map(fixed_values(jax.tree.leaves(data)), graph.computed)), costs)
