"""Output constraints: what a network function returns."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from pjax_core.arrays.arguments import Known, scalar
from pjax_core.arrays.messages import described, is_known
from pjax_core.graph import sets
from pjax_core.graph.computed import fixed_values
from pjax_core.graph.graph import Graph
from pjax_core.graph.nodes import Computed, Data, Node, Operation, Slot
from pjax_core.operations import primitives
from pjax_core.operations.call import call
from pjax_core.operations.primitive import Primitive


def margin_loss(logits: ArrayLike, labels: ArrayLike, *, weights: ArrayLike | None = None) -> Array:
    """Output constraint ``logit <= 0`` where the label is 0, ``logit >= label`` where it is positive.

    Args:
        logits: any shape with at least one axis.
        labels: the same shape; data, not a parameter or anything computed from one.
        weights: for each row the fraction of the way to the constraint that it goes, 0 to leave it out and 1, the
            default, to hold it; data, of a shape that broadcasts to that of ``logits`` without its last axis.

    Returns:
        The squared distance to it, summed over the last axis and
        averaged over the others by their weights.

    Raises:
        ValueError: the shapes do not fit, or labels or weights are not data.

    Source: paper, section 3.3; the projection is :func:`pjax_kernels.project_margin`.
    """
    return _constrain(primitives.margin_loss, logits, labels, weights)


def cross_entropy(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    strength: float | Array = 5.0,
    weights: ArrayLike | None = None,
    class_weights: ArrayLike | Sequence[float] | None = None,
) -> Array:
    """Output constraint that pulls logits towards low softmax cross-entropy, as its proximal operator does.

    Args:
        logits: ``(..., C)``.
        labels: the same shape, probabilities; or ``(...)``, integers, the numbers of the classes, where a row whose
            number is no class, such as -1, is left out.  Data, not a parameter or anything computed from one.
        strength: how far the loss pulls, in units of logits; positive.  It may be traced, or be one of the data, so
            that a schedule compiles once; nothing checks its sign then.
        weights: of each row's loss, not negative; data, of a shape that broadcasts to ``(...)``.
        class_weights: (C,), a number for each class, by which the loss of a row of that class is multiplied; data.

    Returns:
        The mean cross-entropy, by the weights.

    Raises:
        ValueError: the shapes do not fit, labels or weights are not data, or the strength is not positive.

    Source: paper, section 3.3; the projection is :func:`pjax_kernels.prox_cross_entropy`.
    """
    strength, weights = _strength_and_weights("cross_entropy", strength, weights)
    settings: dict[str, Any] = {"strength": strength}
    if class_weights is not None:
        class_weights = class_weights if isinstance(class_weights, Array) else np.asarray(class_weights)
        if jnp.shape(class_weights) != jnp.shape(logits)[-1:]:
            raise ValueError(
                f"cross_entropy: class_weights have shape {jnp.shape(class_weights)}, but logits are of shape "
                f"{jnp.shape(logits)}; pass a number for each class"
            )
        if is_known(class_weights):
            settings["class_weights"] = tuple(map(float, np.asarray(class_weights)))
        else:
            given = None if weights is None else jnp.asarray(weights)
            labels, weights = primitives.cross_entropy_rows(
                jnp.asarray(logits), jnp.asarray(labels), given, class_weights
            )
    return _constrain(primitives.cross_entropy, logits, labels, weights, **settings)


def squared_error(
    prediction: ArrayLike, target: ArrayLike, *, strength: float | Array = 1.0, weights: ArrayLike | None = None
) -> Array:
    """Output constraint that pulls each element of a prediction towards its target, as squared error does.

    Args:
        prediction: any shape.
        target: the same shape; data, not a parameter or anything computed from one.
        strength: how far the loss pulls; positive: a fraction ``2 strength/(1 + 2 strength)`` of the error.
        weights: of each element's loss, not negative; data, of a shape that broadcasts to that of ``prediction``.

    Returns:
        The mean of ``(prediction - target)^2``, by the weights.

    Raises:
        ValueError: the shapes do not fit, the target or weights are not data, or the strength is not positive.

    Source: Parikh and Boyd, Proximal Algorithms (2014); the projection is :func:`pjax_kernels.prox_squared_error`.
    """
    return _constrain_prediction(primitives.squared_error, prediction, target, strength, weights)


def absolute_error(
    prediction: ArrayLike, target: ArrayLike, *, strength: float | Array = 1.0, weights: ArrayLike | None = None
) -> Array:
    """Output constraint that pulls each element of a prediction towards its target, as absolute error does.

    Args:
        prediction: any shape.
        target: the same shape; data, not a parameter or anything computed from one.
        strength: how far the loss pulls, in units of the prediction; positive.
        weights: of each element's loss, not negative; data, of a shape that broadcasts to that of ``prediction``.

    Returns:
        The mean of ``|prediction - target|``, by the weights.

    Raises:
        ValueError: the shapes do not fit, the target or weights are not data, or the strength is not positive.

    Source: Parikh and Boyd, Proximal Algorithms (2014); the projection is :func:`pjax_kernels.prox_absolute_error`.
    """
    return _constrain_prediction(primitives.absolute_error, prediction, target, strength, weights)


def within(value: ArrayLike, region: sets.Region) -> Array:
    """Output constraint that a value lies in a set.

    A parameter that is used elsewhere too, and is given whole, is then always in the set, exactly so for finite sets,
    sparse vectors and boxes: the point where its copies agree is taken in the set.  Unknown data are such parameters:
    inputs that are to be found, ``within(params["codes"], Levels((-1, 1)))``, or the missing ones among known ones,
    ``jnp.where(known, x, params["missing"])``.

    Args:
        value: any shape.
        region: a :class:`Box`, :class:`Sphere`, :class:`Levels`, :class:`Sparse`, :class:`OneHot`, :class:`Simplex`,
            :class:`Orthonormal`; or a function of ``jax.numpy`` that gives the point of a set nearest to a value.

    Returns:
        The mean squared distance of an element to it.

    Raises:
        TypeError: the region is no set.
        ValueError: the set does not fit the shape of the value, or a limit is not data.

    Source: Parikh and Boyd, Proximal Algorithms (2014); Elser, Lal, arXiv 2602.17493, for parameters; the projections
    are those of :mod:`pjax_kernels`.
    """
    setting, limits = sets.setting_and_operands(region)
    for name, limit in limits.items():
        _require_broadcast("within", name, limit, jnp.shape(value))
    return _apply_to_data(sets.within, value, {"region": setting}, **limits)


def output(name: str, *, loss: Callable[..., Array], prox: Callable[..., Array] | None = None) -> Callable[..., Any]:
    """An output constraint from a loss, and its proximal operator.

    Args:
        name: what error messages and profiles call it.
        loss: ``loss(prediction, *data, **settings)``, in ``jax.numpy``, returns a number.
        prox: ``prox(prediction, *data, **settings)``, in ``jax.numpy``, returns the prediction that makes the loss
            of a row and half the squared distance from the one given, over the strength, as small as possible; for a
            set the nearest point of it.  None for what that is for a small strength: a step against the loss's
            derivative by the prediction, times the number of rows, the first axes, and the setting ``strength``, 0.05
            by default.  Directions ask for no more; algorithms take it as it is, so that a large strength overshoots.

    Returns:
        A function of a prediction, of data and of settings by keyword, which returns the loss.

    Source: paper, section 3.3.
    """
    defaults = {} if prox is not None else {"strength": 0.05}
    operation = primitives.output_constraint(name, loss, prox)

    def constraint(prediction: ArrayLike, *data: ArrayLike, **settings: Any) -> Any:
        for key, setting in settings.items():
            if isinstance(setting, Array):
                raise TypeError(f"{name}: the setting {key} is {described(setting)}; pass arrays as data, by position")
        named = {f"argument {place}": array for place, array in enumerate(data, 1)}
        return _apply_to_data(operation, prediction, defaults | settings, **named)

    constraint.__name__ = constraint.__qualname__ = name
    constraint.__doc__ = f"The output constraint {name!r}."
    return constraint


def _constrain(
    operation: Primitive, logits: ArrayLike, labels: ArrayLike, weights: ArrayLike | None, **settings: Any
) -> Any:
    name = operation.name
    rows = jnp.shape(logits)[:-1]
    as_numbers = (
        operation is primitives.cross_entropy
        and jnp.shape(labels) == rows
        and jnp.issubdtype(jnp.result_type(labels), jnp.integer)
    )
    if not jnp.shape(logits) or (jnp.shape(logits) != jnp.shape(labels) and not as_numbers):
        hint = "; pass class numbers as jax.nn.one_hot" if jnp.shape(labels) == rows else ""
        raise ValueError(
            f"{name}: logits have shape {jnp.shape(logits)} and labels {jnp.shape(labels)}; they must agree and have "
            f"an axis{hint}"
        )
    if not jnp.issubdtype(jnp.result_type(labels), jnp.floating) and not as_numbers:
        labels = jnp.asarray(labels, jnp.result_type(logits))
    data = {"labels": labels}
    if weights is not None:
        _require_broadcast(name, "weights", weights, rows)
        data["weights"] = weights
    return _apply_to_data(operation, logits, settings, **data)


def _constrain_prediction(
    operation: Primitive,
    prediction: ArrayLike,
    target: ArrayLike,
    strength: float | Array,
    weights: ArrayLike | None,
) -> Any:
    name = operation.name
    strength, weights = _strength_and_weights(name, strength, weights)
    if jnp.shape(prediction) != jnp.shape(target):
        raise ValueError(
            f"{name}: the prediction has shape {jnp.shape(prediction)}, the target {jnp.shape(target)}; they must agree"
        )
    if not jnp.issubdtype(jnp.result_type(target), jnp.floating):
        target = jnp.asarray(target, jnp.result_type(prediction))
    data = {"the target": target}
    if weights is not None:
        _require_broadcast(name, "weights", weights, jnp.shape(prediction))
        data["weights"] = weights
    return _apply_to_data(operation, prediction, {"strength": strength}, **data)


def _strength_and_weights(
    name: str, strength: float | Array, weights: ArrayLike | None
) -> tuple[float, ArrayLike | None]:
    """The same constraint by a strength that is known: one that is traced multiplies the weights."""
    strength = scalar(strength)
    truth = isinstance(strength, (bool, np.bool_))
    if truth or jnp.shape(strength) != () or (is_known(strength) and not strength > 0):
        raise ValueError(f"{name}: strength is {described(strength)}; pass a positive number")
    if isinstance(strength, jax.core.Tracer):
        return 1.0, strength if weights is None else strength * jnp.asarray(weights)
    return float(strength), weights


def _require_broadcast(name: str, what: str, operand: ArrayLike, shape: tuple[int, ...]) -> None:
    try:
        fits = jnp.broadcast_shapes(jnp.shape(operand), shape) == shape
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(f"{name}: {what} has shape {jnp.shape(operand)}, which does not broadcast to {shape}")


def _apply_to_data(operation: Primitive, moving: ArrayLike, settings: Mapping[str, Any], **data: ArrayLike) -> Array:
    """The output constraint of a value and named data."""
    return call(operation, moving, *data.values(), **settings)


def require_labels(graph: Graph, data: tuple[Any, ...]) -> None:
    """Raise ``ValueError`` where labels or weights of known content are not what their output constraint takes."""
    leaves = jax.tree.leaves(data)
    value = fixed_values(leaves)
    for node in graph.nodes:
        if not isinstance(node, Operation):
            continue
        for slot, require in zip(node.slots[1:], _REQUIRED.get(node.primitive.name, ()), strict=False):
            given = _given(slot)
            if require is None or any(isinstance(part, Data) and part.index >= len(leaves) for part in given):
                continue  # a target, which may be any number, or a cost, which the metric has checked
            held = tuple(map(value, given))
            if all(map(is_known, held)) and held not in _valid.setdefault(slot, Known()):
                with jax.ensure_compile_time_eval():  # inside jit, what is selected of known arrays is known
                    require(node, slot, np.asarray(slot.read(value)))
                _valid[slot].add(held)


_valid: weakref.WeakKeyDictionary[Slot, Known] = weakref.WeakKeyDictionary()
"""The labels and weights that were checked, for each place where a graph has some."""


def _given(slot: Slot) -> list[Node]:
    """The data and constants that a slot is made of."""
    return [
        given
        for source in slot.sources
        for given in (
            [node for part in source.slots for node in _given(part)] if isinstance(source, Computed) else [source]
        )
    ]


def _require_weights_of(node: Operation, slot: Slot, weights: np.ndarray) -> None:
    """Raise ``ValueError`` where weights of an output constraint are negative."""
    if (weights < 0).any():
        raise ValueError(
            f"{node.primitive.name}: weights, from {', '.join(source.name for source in slot.sources)}, are as low as "
            f"{weights.min():.4g}; pass numbers that are not negative, 0 to leave something out"
        )


def _require_labels_of(node: Operation, slot: Slot, labels: np.ndarray) -> None:
    """Raise ``ValueError`` unless the labels of an output constraint are what it takes."""
    name = node.primitive.name
    if np.issubdtype(labels.dtype, np.integer):
        return
    labels = labels.astype(np.float32)
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

_REQUIRED: dict[str, tuple[Callable[[Operation, Slot, np.ndarray], None] | None, ...]] = {
    **dict.fromkeys(_TAKEN, (_require_labels_of, _require_weights_of)),
    **dict.fromkeys((primitives.squared_error.name, primitives.absolute_error.name), (None, _require_weights_of)),
}
"""What is required of labels, or targets, and of weights."""
