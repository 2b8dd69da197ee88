"""Algorithms that go through the layers: cyclic projections and cyclic Douglas-Rachford."""

from __future__ import annotations

import itertools

from pjax_core.algorithms.base import Algorithm, consensus_algorithm, made_once, reflecting_algorithm
from pjax_core.algorithms.reflections import relaxed_reflections
from pjax_core.copies.factored import Copies
from pjax_core.copies.point import CopiesState, Point, of_layers
from pjax_core.graph.graph import Graph


@made_once
def cyclic_projections() -> Algorithm:
    """Cyclic projections: layer by layer, by distance from the output and starting there (paper, section 4)."""
    return consensus_algorithm(Graph.layers, started=False)


@made_once
def cyclic_douglas_rachford(*, copies: str | Copies = "auto", budget: int | None = None) -> Algorithm:
    """Cyclic Douglas-Rachford: ``D_n ... D_1``, ``D_i = (I + R_{i+1} R_i)/2`` over the layers (paper, section 4).

    The layers 1 to n + 1 are counted from the output, as in :func:`cyclic_projections`, data last.

    Args:
        copies: as in :func:`douglas_rachford`.
        budget: as in :func:`douglas_rachford`.

    Raises:
        ValueError: as in :func:`douglas_rachford`; in use, where an operand is a view of several layers.
    """

    def step(point: Point) -> CopiesState:
        state = point.state
        for first, second in itertools.pairwise(of_layers(point.graph)):
            state = relaxed_reflections(Point(point.graph, point.copies, state), first, second, 0.5)
        return state

    return reflecting_algorithm(step, copies, budget)
