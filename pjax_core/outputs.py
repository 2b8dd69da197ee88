"""Output constraints: what a network function returns."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pjax_core import primitives
from pjax_core.arguments import Known
from pjax_core.graph import Constant, Data, Node, Operation, Slot, as_value
from pjax_core.messages import described
from pjax_core.operand import Operand, any_traced, apply, is_known, shape_of
from pjax_core.primitive import Primitive
from pjax_core.solution import Problem


def margin_loss(logits: Operand, labels: Operand) -> Any:
    """Output constraint ``logit <= 0`` where the label is 0, ``logit >= label`` where it is positive.

    Args:
        logits: any shape with at least one axis.
        labels: the same shape; data, not a parameter or anything computed from one.

    Returns:
        While a network is traced, the constraint; on arrays the squared distance to it, summed over the last axis and
        averaged over the others.

    Raises:
        ValueError: the shapes differ, or labels are not data.

    Source: paper, section 3.3; the projection is :func:`pjax_kernels.project_margin`.
    """
    return _constrain(primitives.margin_loss, logits, labels)


def cross_entropy(logits: Operand, labels: Operand, *, strength: float = 5.0) -> Any:
    """Output constraint that pulls logits towards low softmax cross-entropy, as its proximal operator does.

    Args:
        logits: ``(..., C)``.
        labels: the same shape, probabilities; data, not a parameter or anything computed from one.
        strength: how far the loss pulls, in units of logits; positive.

    Returns:
        While a network is traced, the constraint; on arrays the mean cross-entropy.

    Raises:
        ValueError: the shapes differ, labels are not data, or the strength is not positive.

    Source: paper, section 3.3; the projection is :func:`pjax_kernels.prox_cross_entropy`.
    """
    if not strength > 0:
        raise ValueError(f"cross_entropy: strength is {described(strength)}; pass a positive number")
    return _constrain(primitives.cross_entropy, logits, labels, strength=strength)


def _constrain(operation: Primitive, logits: Operand, labels: Operand, **settings: Any) -> Any:
    name = operation.name
    if shape_of(logits) != shape_of(labels) or not shape_of(logits):
        hint = "; pass class numbers as jax.nn.one_hot" if shape_of(labels) == shape_of(logits)[:-1] else ""
        raise ValueError(
            f"{name}: logits have shape {shape_of(logits)} and labels {shape_of(labels)}; they must agree and have an "
            f"axis{hint}"
        )
    if not any_traced([logits, labels]):
        return operation.forward(jnp.asarray(logits), jnp.asarray(labels), **settings)
    logits, labels = as_value(logits), as_value(labels)
    if not all(isinstance(source, (Data, Constant)) for source in labels.slot.sources):
        moving = [source.name for source in labels.slot.sources if not isinstance(source, (Data, Constant))]
        raise ValueError(f"{name}: labels come from {', '.join(moving)}; they must be data, given after params")
    return apply(operation, logits, labels, **settings)


def require_labels(problem: Problem, params: Any, data: tuple[Any, ...]) -> None:
    """Raise ``ValueError`` where labels of known content are not what their output constraint takes."""
    graph = problem.graph(params, data)
    arrays = jax.tree.leaves(data)

    def value(source: Node) -> Any:
        return arrays[source.index] if isinstance(source, Data) else source.value  # type: ignore[attr-defined]

    for node in graph.nodes:
        if isinstance(node, Operation) and node.primitive.constrains_output:
            slot = node.slots[1]
            held = tuple(map(value, slot.sources))
            if all(map(is_known, held)) and held not in _valid.setdefault(slot, Known()):
                _require_labels_of(node, slot, value)
                _valid[slot].add(held)


_valid: weakref.WeakKeyDictionary[Slot, Known] = weakref.WeakKeyDictionary()
"""The labels that were checked, for each place where a graph has some."""


def _require_labels_of(node: Operation, slot: Slot, value: Callable[[Node], Any]) -> None:
    """Raise ``ValueError`` unless the labels of an output constraint are what it takes."""
    name = node.primitive.name
    with jax.ensure_compile_time_eval():  # inside jit, what is selected of known arrays is known
        labels = np.asarray(slot.read(value), np.float32)
    sums = np.abs(labels.sum(axis=-1) - 1) <= _ROUNDING
    if (labels < 0).any() or (name == primitives.cross_entropy.name and not sums.all()):
        raise ValueError(
            f"{name}: labels, from {', '.join(source.name for source in slot.sources)}, are from "
            f"{labels.min():.4g} to {labels.max():.4g}; {_TAKEN[name]}"
        )


_ROUNDING = 0.02
"""How far probabilities in half precision may be from a sum of 1."""

_TAKEN = {
    primitives.cross_entropy.name: "pass probabilities that sum to 1 over the last axis, as jax.nn.one_hot makes them",
    primitives.margin_loss.name: "pass 0, or where the logit must be positive the margin, such as 1",
}
