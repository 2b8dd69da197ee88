"""Output constraints: what a network function returns."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from pjax_core import primitives
from pjax_core.call import call
from pjax_core.graph import Computed, Data, Graph, Node, Operation, Slot
from pjax_core.primitive import Primitive
from pjax_core.solution import Problem


def margin_loss(logits: ArrayLike, labels: ArrayLike) -> Array:
    """Output constraint ``logit <= 0`` where the label is 0, ``logit >= label`` where it is positive.

    Args:
        logits: any shape with at least one axis.
        labels: the same shape; data, not a parameter or anything computed from one.

    Returns:
        The squared distance to it, summed over the last axis and averaged over the others.

    Raises:
        ValueError: the shapes differ, or labels are not data.

    Source: paper, section 3.3; the projection is :func:`pjax_kernels.project_margin`.
    """
    return _constrain(primitives.margin_loss, logits, labels)


def cross_entropy(logits: ArrayLike, labels: ArrayLike, *, strength: float = 5.0) -> Array:
    """Output constraint that pulls logits towards low softmax cross-entropy, as its proximal operator does.

    Args:
        logits: ``(..., C)``.
        labels: the same shape, probabilities; data, not a parameter or anything computed from one.
        strength: how far the loss pulls, in units of logits; positive.

    Returns:
        The mean cross-entropy.

    Raises:
        ValueError: the shapes differ, labels are not data, or the strength is not positive.

    Source: paper, section 3.3; the projection is :func:`pjax_kernels.prox_cross_entropy`.
    """
    if not strength > 0:
        raise ValueError(f"cross_entropy: strength is {strength!r}; pass a positive number")
    return _constrain(primitives.cross_entropy, logits, labels, strength=strength)


def _constrain(operation: Primitive, logits: ArrayLike, labels: ArrayLike, **settings: Any) -> Array:
    name = operation.name
    if jnp.shape(logits) != jnp.shape(labels) or not jnp.shape(logits):
        hint = "; pass class numbers as jax.nn.one_hot" if jnp.shape(labels) == jnp.shape(logits)[:-1] else ""
        raise ValueError(
            f"{name}: logits have shape {jnp.shape(logits)} and labels {jnp.shape(labels)}; they must agree and have "
            f"an axis{hint}"
        )
    return call(operation, logits, labels, **settings)


def require_labels(problem: Problem, params: Any, data: tuple[Any, ...]) -> None:
    """Raise ``ValueError`` where labels of known content are not what their output constraint takes."""
    arrays = jax.tree.leaves(data)

    def value(source: Node) -> Any:
        if isinstance(source, Computed):
            return source.function(*(slot.read(value) for slot in source.slots))
        return arrays[source.index] if isinstance(source, Data) else source.value  # type: ignore[attr-defined]

    for name, slot in _label_slots(problem.graph(params, data)):
        if all(not isinstance(value(source), jax.core.Tracer) for source in slot.sources):
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


def _label_slots(graph: Graph) -> list[tuple[str, Slot]]:
    """Name and labels of each output constraint."""
    constraints = [node for node in graph.nodes if isinstance(node, Operation) and node.primitive.constrains_output]
    return [(node.primitive.name, node.slots[1]) for node in constraints]
