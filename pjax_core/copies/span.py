"""Weights of dense layers whose input is data, as the batch moves them: the changes of few rows for those of many.

As long as the data stay, all that moves such weights is in the span of the batch, and what a projection needs follows
from products that are formed once (``pjax_kernels/dense/span.py``).  So an iteration touches neither data nor weights.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
from jax import Array

from pjax_core.arrays.meshes import says_more_than_shape
from pjax_core.arrays.serialization import exportable_dataclass, exportable_namedtuple
from pjax_core.copies.count import low_dtype
from pjax_core.graph.graph import Graph
from pjax_core.graph.nodes import Data, Node, Operation, Parameter
from pjax_core.operations import primitives
from pjax_kernels.compose import ChangeInSpan, Span, no_change_in_span, span_of

exportable_namedtuple(Span)
exportable_namedtuple(ChangeInSpan)

IN_OUT, OUT_IN = ("in", "out"), ("out", "in")


@exportable_dataclass
@dataclass(frozen=True)
class InSpan:
    """What a layer's weights move along.

    Attributes:
        span: see :class:`pjax_kernels.compose.Span`.
        kept: the rows of data, ``(B, N)``; None where they are an array of the data.
        place: of that among the data.
        axes: of the weights.
    """

    span: Span
    kept: Array | None
    place: tuple[str, ...] = field(metadata={"static": True})
    axes: tuple[str, str] = field(metadata={"static": True})

    def nothing(self) -> ChangeInSpan:
        """No change."""
        return no_change_in_span(self.span)

    def of_weights(self, weights: Array, change: ChangeInSpan, data: Any) -> Array:
        """By how much the weights have changed, given those at the start."""
        rows = jax.tree.leaves(data)[int(self.place[0])] if self.kept is None else self.kept
        if self.axes == IN_OUT:
            return change.weights(rows, weights)
        return change.weights(rows, weights.T).T


def in_spans(graph: Graph, start_of: Callable[[Node], Array]) -> dict[Parameter, InSpan]:
    """The weights that are held so, with values at the start.

    They are those where it takes less: of layers with more inputs than twice the batch, and not fewer outputs.
    """
    found = {}
    for parameter in graph.parameters:
        node = graph.consumers[parameter][0]
        axes = _axes(node)
        if axes is not None and _pays(graph, node, parameter, axes):
            rows, weights = node.slots[0].read(start_of), start_of(parameter)
            span = span_of(rows, weights if axes == IN_OUT else weights.T)
            source = node.slots[0].sources[0]
            if not node.slots[0].steps and isinstance(source, Data):
                found[parameter] = InSpan(span, None, (str(source.index),), axes)
            else:
                found[parameter] = InSpan(span, rows, (), axes)
    return found


def _axes(node: Operation) -> tuple[str, str] | None:
    """The axes of a dense layer's weights; None for other operations."""
    if node.primitive is primitives.matmul:
        return IN_OUT
    return OUT_IN if node.primitive is primitives.matmul_transposed else None


def _pays(graph: Graph, node: Operation, parameter: Parameter, axes: tuple[str, str]) -> bool:
    """Whether the operation alone uses the parameter, with data, in shapes where the batch spans little."""
    x, w = node.slots
    if graph.consumers[parameter] != (node,) or w.steps or not x.is_fixed:
        return False
    sizes = dict(zip(axes, w.shape.shape, strict=True)) | {"batch": x.shape.shape[0]}
    plain = (
        parameter not in graph.regions
        and x.shape.dtype == w.shape.dtype == low_dtype(w.shape.dtype)
        and not any(says_more_than_shape(slot.shape) for slot in node.slots)
        and jax.device_count() == 1  # else rows on several devices would have products with each other
        and all(isinstance(size, int) for size in sizes.values())
    )
    return plain and 0 < sizes["batch"] <= sizes["out"] and 2 * sizes["batch"] <= sizes["in"]
