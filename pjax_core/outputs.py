"""Output constraints: what a network function returns."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from pjax_core import primitives
from pjax_core.arguments import Known
from pjax_core.graph import Data, Node, Operation, Slot, Value, as_value, is_fixed
from pjax_core.messages import described
from pjax_core.operand import Operand, any_traced, apply, is_known, shape_of
from pjax_core.primitive import Primitive
from pjax_core.solution import Problem


def margin_loss(logits: Operand, labels: Operand, *, weights: Operand | None = None) -> Any:
    """Output constraint ``logit <= 0`` where the label is 0, ``logit >= label`` where it is positive.

    Args:
        logits: any shape with at least one axis.
        labels: the same shape; data, not a parameter or anything computed from one.
        weights: for each row the fraction of the way to the constraint that it goes, 0 to leave it out and 1, the
            default, to hold it; data, of a shape that broadcasts to that of ``logits`` without its last axis.

    Returns:
        While a network is traced, the constraint; on arrays the squared distance to it, summed over the last axis and
        averaged over the others by their weights.

    Raises:
        ValueError: the shapes do not fit, or labels or weights are not data.

    Source: paper, section 3.3; the projection is :func:`pjax_kernels.project_margin`.
    """
    return _constrain(primitives.margin_loss, logits, labels, weights)


def cross_entropy(
    logits: Operand,
    labels: Operand,
    *,
    strength: float = 5.0,
    weights: Operand | None = None,
    class_weights: Sequence[float] | None = None,
) -> Any:
    """Output constraint that pulls logits towards low softmax cross-entropy, as its proximal operator does.

    Args:
        logits: ``(..., C)``.
        labels: the same shape, probabilities; or ``(...)``, integers, the numbers of the classes, where a row whose
            number is no class, such as -1, is left out.  Data, not a parameter or anything computed from one.
        strength: how far the loss pulls, in units of logits; positive.
        weights: of each row's loss, not negative; data, of a shape that broadcasts to ``(...)``.
        class_weights: a number for each class, by which the loss of a row of that class is multiplied.

    Returns:
        While a network is traced, the constraint; on arrays the mean cross-entropy, by the weights.

    Raises:
        ValueError: the shapes do not fit, labels or weights are not data, or the strength is not positive.

    Source: paper, section 3.3; the projection is :func:`pjax_kernels.prox_cross_entropy`.
    """
    if not strength > 0:
        raise ValueError(f"cross_entropy: strength is {described(strength)}; pass a positive number")
    settings: dict[str, Any] = {"strength": strength}
    if class_weights is not None:
        if len(class_weights) != shape_of(logits)[-1]:
            raise ValueError(
                f"cross_entropy: there are {len(class_weights)} class_weights, but logits have shape {shape_of(logits)}"
            )
        settings["class_weights"] = tuple(map(float, class_weights))
    return _constrain(primitives.cross_entropy, logits, labels, weights, **settings)


def squared_error(
    prediction: Operand, target: Operand, *, strength: float = 1.0, weights: Operand | None = None
) -> Any:
    """Output constraint that pulls each element of a prediction towards its target, as squared error does.

    Args:
        prediction: any shape.
        target: the same shape; data, not a parameter or anything computed from one.
        strength: how far the loss pulls; positive: a fraction ``2 strength/(1 + 2 strength)`` of the error.
        weights: of each element's loss, not negative; data, of a shape that broadcasts to that of ``prediction``.

    Returns:
        While a network is traced, the constraint; on arrays the mean of ``(prediction - target)^2``, by the weights.

    Raises:
        ValueError: the shapes do not fit, the target or weights are not data, or the strength is not positive.

    Source: Parikh and Boyd, Proximal Algorithms (2014); the projection is :func:`pjax_kernels.prox_squared_error`.
    """
    return _constrain_prediction(primitives.squared_error, prediction, target, strength, weights)


def absolute_error(
    prediction: Operand, target: Operand, *, strength: float = 1.0, weights: Operand | None = None
) -> Any:
    """Output constraint that pulls each element of a prediction towards its target, as absolute error does.

    Args:
        prediction: any shape.
        target: the same shape; data, not a parameter or anything computed from one.
        strength: how far the loss pulls, in units of the prediction; positive.
        weights: of each element's loss, not negative; data, of a shape that broadcasts to that of ``prediction``.

    Returns:
        While a network is traced, the constraint; on arrays the mean of ``|prediction - target|``, by the weights.

    Raises:
        ValueError: the shapes do not fit, the target or weights are not data, or the strength is not positive.

    Source: Parikh and Boyd, Proximal Algorithms (2014); the projection is :func:`pjax_kernels.prox_absolute_error`.
    """
    return _constrain_prediction(primitives.absolute_error, prediction, target, strength, weights)


class Box(NamedTuple):
    """The set of :func:`within` ``{low <= value <= high}``: numbers, or data that broadcast to the value's shape."""

    low: Any = -math.inf
    high: Any = math.inf


def within(value: Operand, region: Box) -> Any:
    """Output constraint that a value lies in a set.

    Args:
        value: any shape.
        region: a :class:`Box`.

    Returns:
        While a network is traced, the constraint; on arrays the mean squared distance of an element to it.

    Raises:
        TypeError: the region is no box.
        ValueError: a limit is not data, or does not broadcast to the shape of the value.

    Source: Parikh and Boyd, Proximal Algorithms (2014); the projection is :func:`pjax_kernels.project_box`.
    """
    if not isinstance(region, Box):
        raise TypeError(f"within: the region is of type {type(region).__name__}; pass pj.Box(low, high)")
    _require_broadcast("within", "low", region.low, shape_of(value))
    _require_broadcast("within", "high", region.high, shape_of(value))
    return _apply_to_data(primitives.within_box, value, {}, low=region.low, high=region.high)


def output(name: str, *, loss: Callable[..., Array], prox: Callable[..., Array]) -> Callable[..., Any]:
    """An output constraint from a loss and its proximal operator.

    Args:
        name: what error messages and profiles call it.
        loss: ``loss(prediction, *data, **settings)``, in ``jax.numpy``, returns a number.
        prox: ``prox(prediction, *data, **settings)``, in ``jax.numpy``, returns the prediction that makes the loss
            of a row and half the squared distance from the one given, over the strength, as small as possible; for a
            set the nearest point of it.

    Returns:
        A function of a prediction, of data and of settings by keyword: while a network is traced, the constraint; on
        arrays the loss.

    Source: paper, section 3.3.
    """
    operation = primitives.output_constraint(name, loss, prox)

    def constraint(prediction: Operand, *data: Operand, **settings: Any) -> Any:
        named = {f"argument {place}": array for place, array in enumerate(data, 1)}
        return _apply_to_data(operation, prediction, settings, **named)

    constraint.__name__ = constraint.__qualname__ = name
    constraint.__doc__ = f"The output constraint {name!r}."
    return constraint


def _constrain(operation: Primitive, logits: Operand, labels: Operand, weights: Operand | None, **settings: Any) -> Any:
    name = operation.name
    rows = shape_of(logits)[:-1]
    as_numbers = (
        operation is primitives.cross_entropy
        and shape_of(labels) == rows
        and jnp.issubdtype(_dtype_of(labels), jnp.integer)
    )
    if not shape_of(logits) or (shape_of(logits) != shape_of(labels) and not as_numbers):
        hint = "; pass class numbers as jax.nn.one_hot" if shape_of(labels) == rows else ""
        raise ValueError(
            f"{name}: logits have shape {shape_of(logits)} and labels {shape_of(labels)}; they must agree and have an "
            f"axis{hint}"
        )
    if jnp.issubdtype(_dtype_of(labels), jnp.integer) and not as_numbers:
        held = [source.name for source in labels.slot.sources] if isinstance(labels, Value) else ["labels"]
        raise TypeError(
            f"{name}: {', '.join(held)} has dtype {_dtype_of(labels)}; pass floating-point labels, such as "
            "jax.nn.one_hot makes of class numbers"
        )
    data = {"labels": labels}
    if weights is not None:
        _require_broadcast(name, "weights", weights, rows)
        data["weights"] = weights
    return _apply_to_data(operation, logits, settings, **data)


def _constrain_prediction(
    operation: Primitive, prediction: Operand, target: Operand, strength: float, weights: Operand | None
) -> Any:
    name = operation.name
    if not strength > 0:
        raise ValueError(f"{name}: strength is {described(strength)}; pass a positive number")
    if shape_of(prediction) != shape_of(target):
        raise ValueError(
            f"{name}: the prediction has shape {shape_of(prediction)}, the target {shape_of(target)}; they must agree"
        )
    data = {"the target": target}
    if weights is not None:
        _require_broadcast(name, "weights", weights, shape_of(prediction))
        data["weights"] = weights
    return _apply_to_data(operation, prediction, {"strength": strength}, **data)


def _dtype_of(operand: Operand) -> Any:
    return operand.dtype if isinstance(operand, Value) else jnp.result_type(operand)


def _require_broadcast(name: str, what: str, operand: Operand, shape: tuple[int, ...]) -> None:
    try:
        fits = jnp.broadcast_shapes(shape_of(operand), shape) == shape
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(f"{name}: {what} has shape {shape_of(operand)}, which does not broadcast to {shape}")


def _apply_to_data(operation: Primitive, moving: Operand, settings: Mapping[str, Any], **data: Operand) -> Any:
    """The output constraint of a value and named data, or the loss of arrays."""
    if not any_traced([moving, *data.values()]):
        return operation.forward(jnp.asarray(moving), *map(jnp.asarray, data.values()), **settings)
    values = [as_value(operand) for operand in data.values()]
    for name, value in zip(data, values, strict=True):
        sources = [source.name for source in value.slot.sources if not is_fixed(source)]
        if sources:
            verb = "come" if name.endswith("s") else "comes"
            raise ValueError(
                f"{operation.name}: {name} {verb} from {', '.join(sources)}; they must be data, given after params"
            )
    return apply(operation, moving, *values, **settings)


def require_labels(problem: Problem, params: Any, data: tuple[Any, ...]) -> None:
    """Raise ``ValueError`` where labels of known content are not what their output constraint takes."""
    graph = problem.graph(params, data)
    arrays = jax.tree.leaves(data)

    def value(source: Node) -> Any:
        return arrays[source.index] if isinstance(source, Data) else source.value  # type: ignore[attr-defined]

    for node in graph.nodes:
        if isinstance(node, Operation) and node.primitive.name in _TAKEN:
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
        labels = np.asarray(slot.read(value))
    if np.issubdtype(labels.dtype, np.integer):
        return
    labels = labels.astype(np.float32)
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
