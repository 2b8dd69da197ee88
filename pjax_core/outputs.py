"""Output constraints: what a network function returns."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from pjax_core import primitives
from pjax_core.graph import Constant, Data, as_value
from pjax_core.operand import Operand, any_traced, apply, shape_of
from pjax_core.primitive import Primitive


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
        raise ValueError(
            f"{name}: logits have shape {shape_of(logits)} and labels {shape_of(labels)}; they must agree and have an "
            "axis"
        )
    if not any_traced([logits, labels]):
        return operation.forward(jnp.asarray(logits), jnp.asarray(labels), **settings)
    logits, labels = as_value(logits), as_value(labels)
    if not all(isinstance(source, (Data, Constant)) for source in labels.slot.sources):
        moving = [source.name for source in labels.slot.sources if not isinstance(source, (Data, Constant))]
        raise ValueError(f"{name}: labels come from {', '.join(moving)}; they must be data, given after params")
    return apply(operation, logits, labels, **settings)
