"""NumPy-like operations: on traced values they build the graph, on plain arrays they compute."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax.numpy as jnp
import numpy as np
from jax import Array

from pjax_core import primitive
from pjax_core.graph import Constant, Constraint, Data, Value, apply, as_value, of_node, restructure

Operand: TypeAlias = Value | Array | np.ndarray | float
"""What operations take: a traced value, or an array."""

Result: TypeAlias = Any
"""A :class:`Value` if any operand is one, else an array."""


def _any_traced(operands: Sequence[Operand]) -> bool:
    return any(isinstance(operand, Value) for operand in operands)


def _apply(operation: primitive.Primitive, *operands: Operand, **settings: Any) -> Result:
    """The operation's output, traced or computed."""
    if not _any_traced(operands):
        return operation.forward(*(jnp.asarray(operand) for operand in operands), **settings)
    return of_node(apply(operation, *(as_value(operand) for operand in operands), **settings))


def _restructure(function: Callable[..., Array], *operands: Operand) -> Result:
    """The selection of elements, traced or computed."""
    if not _any_traced(operands):
        return function(*(jnp.asarray(operand) for operand in operands))
    return restructure(function, *(as_value(operand) for operand in operands))


def matmul(x: Operand, w: Operand) -> Result:
    """Matrix product ``x @ w``: constraints ``z = x . w`` on every row of ``x`` and column of ``w``.

    Args:
        x: ``(..., N)``.
        w: ``(N, M)`` or ``(N,)``.

    Returns:
        ``(..., M)``, or ``(...)`` for a vector ``w``.

    Raises:
        ValueError: the shapes do not fit.

    Source: paper, section 3.2; the projection is :func:`pjax_kernels.project_dense`.
    """
    x_shape, w_shape = _shape(x), _shape(w)
    if not x_shape or len(w_shape) not in (1, 2) or x_shape[-1] != w_shape[0]:
        raise ValueError(
            f"matmul: x has shape {x_shape} and w {w_shape}; pass x of shape (..., N) and w of shape (N, M) or (N,)"
        )
    rows = reshape(x, (-1, x_shape[-1])) if len(x_shape) != 2 else x
    columns = reshape(w, (-1, 1)) if len(w_shape) == 1 else w
    product = _apply(primitive.matmul, rows, columns)
    shape = (*x_shape[:-1], *w_shape[1:])
    return product if len(shape) == 2 and len(w_shape) == 2 else reshape(product, shape)


def _shape(operand: Operand) -> tuple[int, ...]:
    return operand.shape if isinstance(operand, Value) else np.shape(operand)


def dot(a: Operand, b: Operand) -> Result:
    """Dot product of two vectors, constraint ``z = a . b``; of arrays with more axes, :func:`matmul`.

    Args:
        a: ``(N,)``, or as for :func:`matmul`.
        b: ``(N,)``, or as for :func:`matmul`.

    Returns:
        A scalar, or as for :func:`matmul`.

    Raises:
        ValueError: the shapes do not fit.

    Source: paper, section 3.2; the projection is :func:`pjax_kernels.project_bilinear`.
    """
    if len(_shape(a)) == 1 and _shape(a) == _shape(b):
        return _apply(primitive.dot, a, b)
    return matmul(a, b)


def add(*operands: Operand) -> Result:
    """Sum of any number of operands, constraint ``z = x_1 + ... + x_n``, broadcast as in NumPy.

    Args:
        *operands: one or more, of shapes that broadcast.

    Returns:
        Their sum, in the shape to which they broadcast.

    Raises:
        ValueError: no operand, or shapes that do not broadcast.

    Source: paper, section 3.2; the projection is :func:`pjax_kernels.project_sum`.
    """
    _require_broadcast("add", operands)
    return _apply(primitive.sum_, *operands)


def sum_relu(*operands: Operand) -> Result:
    """Rectified sum, constraint ``z = max(x_1 + ... + x_n, 0)``, broadcast as in NumPy.

    One constraint does what :func:`add` and :func:`relu` do with two, and needs fewer steps.

    Args:
        *operands: one or more, of shapes that broadcast.

    Returns:
        The positive part of their sum, in the shape to which they broadcast.

    Raises:
        ValueError: no operand, or shapes that do not broadcast.

    Source: paper, section 3.2; the projection is :func:`pjax_kernels.project_sum_relu`.
    """
    _require_broadcast("sum_relu", operands)
    return _apply(primitive.sum_relu, *operands)


def relu(x: Operand) -> Result:
    """Positive part, constraint ``z = max(x, 0)``: :func:`sum_relu` of one operand.

    Args:
        x: any shape.

    Returns:
        The shape of ``x``.
    """
    return sum_relu(x)


def _require_broadcast(name: str, operands: Sequence[Operand]) -> None:
    shapes = [_shape(operand) for operand in operands]
    if not shapes:
        raise ValueError(f"{name}: no operand; pass at least one")
    try:
        np.broadcast_shapes(*shapes)
    except ValueError:
        listed = " and ".join(str(shape) for shape in shapes)
        raise ValueError(f"{name}: operands of shapes {listed} do not broadcast to one shape") from None


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
    return _constrain(primitive.margin_loss, logits, labels)


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
    return _constrain(primitive.cross_entropy, logits, labels, strength=strength)


def _constrain(operation: primitive.Primitive, logits: Operand, labels: Operand, **settings: Any) -> Any:
    name = operation.name
    if _shape(logits) != _shape(labels) or not _shape(logits):
        raise ValueError(
            f"{name}: logits have shape {_shape(logits)} and labels {_shape(labels)}; they must agree and have an axis"
        )
    if not _any_traced([logits, labels]):
        return operation.forward(jnp.asarray(logits), jnp.asarray(labels), **settings)
    labels = as_value(labels)
    if not all(isinstance(source, (Data, Constant)) for source in labels.slot.sources):
        moving = [source.name for source in labels.slot.sources if not isinstance(source, (Data, Constant))]
        raise ValueError(f"{name}: labels come from {', '.join(moving)}; they must be data, given after params")
    return Constraint(apply(operation, as_value(logits), labels, **settings))


def reshape(x: Operand, shape: int | Sequence[int]) -> Result:
    """``x`` in another shape, as in NumPy; -1 stands for the length that fits. No constraint: a view."""
    return _restructure(lambda array: jnp.reshape(array, shape), x)


def transpose(x: Operand, axes: Sequence[int] | None = None) -> Result:
    """``x`` with its axes permuted, reversed by default, as in NumPy. No constraint: a view."""
    return _restructure(lambda array: jnp.transpose(array, axes), x)


def concatenate(operands: Sequence[Operand], axis: int = 0) -> Result:
    """Operands joined along an axis, as in NumPy. No constraint: a view."""
    return _restructure(lambda *arrays: jnp.concatenate(arrays, axis=axis), *operands)


def stack(operands: Sequence[Operand], axis: int = 0) -> Result:
    """Operands joined along a new axis, as in NumPy. No constraint: a view."""
    return _restructure(lambda *arrays: jnp.stack(arrays, axis=axis), *operands)


def broadcast_to(x: Operand, shape: Sequence[int]) -> Result:
    """``x`` repeated to a larger shape, as in NumPy. No constraint: a view, whose copies average."""
    return _restructure(lambda array: jnp.broadcast_to(array, tuple(shape)), x)


def index(x: Operand, where: Any) -> Result:
    """``x[where]`` as in NumPy, for indices that are known while tracing. No constraint: a view."""
    np.broadcast_to(np.empty(()), _shape(x))[where]  # raises IndexError: JAX would take the nearest element instead
    return _restructure(lambda array: array[where], x)
