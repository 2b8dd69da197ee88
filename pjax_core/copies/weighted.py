"""Means over copies that count by their weights: those of :mod:`pjax_core.copies.metric`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
from jax import Array

from pjax_core.copies.count import laid_out, mean_change, sum_over_copies
from pjax_core.copies.stored import means_over_copies
from pjax_core.graph.graph import Graph
from pjax_core.graph.nodes import Node, Operation


class Weighted:
    """Means with the ``weights`` of operations' copies, 1 for those of others; plain ones where none has any."""

    def __init__(self, graph: Graph, weights: Mapping[Node, Array], start_of: Callable[[Node], Array]) -> None:
        self.graph = graph
        self.weights = weights
        self.start_of = start_of
        self._totals: dict[Node, Array] = {}

    def part_of_mean(self, consumer: Operation, source: Node, means: Sequence[Array]) -> Array:
        """What the means in the slots of one consumer, by its weights if there are any, add to that over all copies."""
        if not self.weights:
            return mean_change(self.graph, consumer, source, means, self.start_of)
        return sum_over_copies(consumer, source, means, self.start_of) / self._total(source)

    def _total(self, source: Node) -> Array:
        """The sum of the weights of all copies of a node's output, 1 where there are none."""
        if source not in self._totals:
            total: Any = 0
            for consumer in self.graph.consumers[source]:
                ones = [jnp.ones(copies.shape, copies.dtype) for copies in laid_out(consumer)]
                weights = means_over_copies(consumer, ones, self.weights.get(consumer))
                total = total + sum_over_copies(consumer, source, weights, self.start_of)
            self._totals[source] = jnp.where(total > 0, total, 1)
        return self._totals[source]

    def estimate(self, node: Operation, copy: Array, estimate: Array) -> Array:
        """The estimate whose plain mean with an identity's input, the output of an operation, is the weighted one."""
        total = self._total(node)
        own = self.weights.get(node.slots[0].sources[0], 1)
        return copy + (2 * total / (own + total)) * (estimate - copy)
