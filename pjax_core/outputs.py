"""Output constraints: what a network function returns."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pjax_core import primitives
from pjax_core.graph import Constant, Data, Node, Operation, Slot, as_value
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
        raise ValueError(f"cross_entropy: strength is {strength!r}; pass a positive number")
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
    leaves, structure = jax.tree.flatten((params, data))
    shapes = tuple(jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves)
    arrays = jax.tree.leaves(data)

    def value(source: Node) -> Any:
        return arrays[source.index] if isinstance(source, Data) else source.value  # type: ignore[attr-defined]

    for name, slot in _label_slots(problem, structure, shapes):
        if all(is_known(value(source)) for source in slot.sources):
            labels = np.asarray(slot.read(value), np.float32)
            sums = (np.abs(labels.sum(axis=-1) - 1) <= _ROUNDING) | ~labels.any(axis=-1)
            if (labels < 0).any() or (name == primitives.cross_entropy.name and not sums.all()):
                raise ValueError(
                    f"{name}: labels, from {', '.join(source.name for source in slot.sources)}, are from "
                    f"{labels.min():.4g} to {labels.max():.4g}; {_TAKEN[name]}"
                )


_ROUNDING = 0.02
"""How far probabilities in half precision may be from a sum of 1."""

_TAKEN = {
    primitives.cross_entropy.name: "pass probabilities that sum to 1 over the last axis, as jax.nn.one_hot makes them, "
    "or 0 for rows to leave out",
    primitives.margin_loss.name: "pass 0, or where the logit must be positive the margin, such as 1",
}


@functools.lru_cache(maxsize=256)
def _label_slots(problem: Problem, structure: Any, shapes: tuple[Any, ...]) -> tuple[tuple[str, Slot], ...]:
    """Name and labels of each output constraint, for arguments of these shapes."""
    graph = problem.graph(*jax.tree.unflatten(structure, shapes))
    constraints = [node for node in graph.nodes if isinstance(node, Operation) and node.primitive.constrains_output]
    return tuple((node.primitive.name, node.slots[1]) for node in constraints)
